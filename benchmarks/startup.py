"""Seconds from the command to the help, to the imported package and to the first trained step.

  python benchmarks/startup.py --rounds=5

The run is the quick start's, ended after its first step, with empty caches (compiled programs) and
with those that this run filled. Medians over the rounds.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from common import ROOT, describe_machine, print_table, watch, watch_ours

_COMMANDS = {
    "`python main.py --help`": (str(ROOT / "main.py"), "--help"),
    "`import vae_jax`": ("-c", "import vae_jax"),
    "`import jax`": ("-c", "import jax"),
}


def start(caches: Path) -> tuple[float, float, float]:
    """Starts a run; returns the seconds to the first step, of it, and of both."""
    with tempfile.TemporaryDirectory() as workdir:
        arguments = ("--config=quickstart", f"--workdir={workdir}")
        run = watch_ours(caches, *arguments, last="first step done")
    if run.problem:
        sys.exit(f"error: the quick start: {run.problem}")
    begins, done = run.when("first step begins"), run.when("first step done")
    return begins, done - begins, done


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    print(f"{describe_machine()}; medians of {len(rounds)}\n", flush=True)
    rows = []
    for name, arguments in _COMMANDS.items():
        command, environment = [sys.executable, *arguments], {"PYTHONPATH": str(ROOT)}
        seconds = statistics.median(watch(command, environment).seconds for _ in rounds)
        rows.append((name, "", f"{seconds:.2f}"))
    empty, filled = [], []
    for _ in rounds:
        with tempfile.TemporaryDirectory() as caches:
            empty.append(start(Path(caches)))
            filled.append(start(Path(caches)))
    columns = [map(statistics.median, zip(*runs, strict=True)) for runs in (empty, filled)]
    for name, *medians in zip(("to the first step", "first step", "both"), *columns, strict=True):
        rows.append((name, *(f"{seconds:.2f}" for seconds in medians)))
    print_table(("seconds", "empty caches", "filled caches"), rows)


if __name__ == "__main__":
    main()
