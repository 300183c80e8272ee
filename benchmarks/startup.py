"""From the command to the first trained step, without and with compiled programs on disk.

  python benchmarks/startup.py

The command is `main.py --config=FILE --workdir=DIR` on the embedded digits, ended after its first
step. Also `python main.py --help` against `python -c "import jax"`.
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

# What `contenders/ours_run.py` says when each part is over.
_MARKS = {
    "imports": "imported",
    "data, run directory, initial state": "first step begins",
    "first step": "first step done",
}


def measure(config: str, cache: Path) -> list[float]:
    """Starts a run and ends it after its first step; returns the seconds of each part."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, str(ROOT / "benchmarks" / "contenders" / "ours_run.py")]
        command += [
            f"--config={ROOT / config}",
            f"--workdir={workdir}",
            "--config.data.name=mnist_5k",
        ]
        environment = {"XDG_CACHE_HOME": str(cache), "JAX_COMPILATION_CACHE_DIR": ""}
        run = watch(command, environment, last="first step done")
    if run.problem:
        sys.exit(f"error: main.py died: {run.problem}")
    marks = [0.0, *(run.when(line) for line in _MARKS.values())]
    return [after - before for before, after in itertools.pairwise(marks)] + [marks[-1]]


def _seconds(*arguments: str) -> float:
    start = time.perf_counter()
    # absl's --help ends with status 1.
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py", help="the model")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{describe_machine()}; {arguments.config}, medians of {arguments.rounds}\n", flush=True)
    cold, warm = [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(measure(arguments.config, Path(cache)))
            warm.append(measure(arguments.config, Path(cache)))
    medians = [map(statistics.median, zip(*runs, strict=True)) for runs in (cold, warm)]
    rows = [
        (part, f"{before:.1f}", f"{after:.1f}")
        for part, before, after in zip((*_MARKS, "in all"), *medians, strict=True)
    ]
    print_table(("seconds", "cold", "warm"), rows)
    pairs = [
        (_seconds("main.py", "--help"), _seconds("-c", "import jax"))
        for _ in range(arguments.rounds + 1)
    ][1:]
    help_seconds, import_seconds = (
        statistics.median(column) for column in zip(*pairs, strict=True)
    )
    print(
        f"\n--help {help_seconds:.2f} s, import jax {import_seconds:.2f} s: "
        f"{help_seconds / import_seconds:.2f} times"
    )


if __name__ == "__main__":
    main()
