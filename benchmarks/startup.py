"""From the command to the first trained step, without and with compiled programs on disk.

  python benchmarks/startup.py

The command is `main.py` on the embedded digits, ended after its first step. Also
`python main.py --help` against `python -c "import jax"`.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, describe_machine, print_table
from watched import watch

# Lines that `contenders/ours_run.py` prints at the end of each part.
_MARKS = {
    "imports": "imported",
    "data, run directory, initial state": "first step begins",
    "first step": "first step done",
}


def measure(config: str, cache: Path) -> list[float]:
    """Starts a run and ends it after its first step; returns the seconds of each part."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, str(ROOT / "benchmarks" / "contenders" / "ours_run.py")]
        command += [f"--config={config}", f"--workdir={workdir}", "--config.data.name=mnist_5k"]
        environment = {"XDG_CACHE_HOME": str(cache), "JAX_COMPILATION_CACHE_DIR": ""}
        run = watch(command, environment, last="first step done")
    if run.problem:
        sys.exit(f"error: main.py died: {run.problem}")
    marks = [0.0, *(run.when(line) for line in _MARKS.values())]
    return [after - before for before, after in itertools.pairwise(marks)] + [marks[-1]]


def _seconds(rounds: int, *arguments: str) -> float:
    """Times a command: the median of the rounds after a first one."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        # absl's --help ends with status 1.
        command = [sys.executable, *arguments]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="quickstart", help="the model: a name in configs/")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{describe_machine()}; {arguments.config}, medians of {arguments.rounds}\n", flush=True)
    cold, warm = [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(measure(arguments.config, Path(cache)))
            warm.append(measure(arguments.config, Path(cache)))
    medians = [map(statistics.median, zip(*runs, strict=True)) for runs in (cold, warm)]
    parts = zip((*_MARKS, "in all"), *medians, strict=True)
    rows = ((part, f"{before:.1f}", f"{after:.1f}") for part, before, after in parts)
    print_table(("seconds", "cold", "warm"), rows)
    help_seconds = _seconds(arguments.rounds, "main.py", "--help")
    import_seconds = _seconds(arguments.rounds, "-c", "import jax")
    print(f"\n--help {help_seconds:.2f} s, import jax {import_seconds:.2f} s")


if __name__ == "__main__":
    main()
