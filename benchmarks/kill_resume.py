"""Kills a training process again and again, and compares what it ends with.

  python benchmarks/kill_resume.py --kills=50

A run that nothing interrupts comes first. Then runs of the same seed are killed (SIGKILL): by the
toss of a coin while a checkpoint is being written, or at a moment drawn at random from the whole
time a run takes, start and plots included. Each is then trained to its end and compared
with the first bit for bit: parameters, optimizer state, metrics, best epoch, samples. Status 1
if a run does not go on, or ends differently.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from common import describe_machine, print_table
from tqdm import tqdm

from tests.support import processes
from vae_jax.runtime import compilation

_KILLS_A_RUN = 5


def _kill(workdir: Path, while_writing: bool, rng: random.Random, seconds: float) -> str | None:
    """Starts a run and kills it; what it was doing, or None if it had ended before."""
    process = processes.start(workdir, *processes.ARGUMENTS)

    def moment() -> bool:
        return while_writing and processes.is_writing_a_checkpoint(workdir)

    killed = processes.kill(process, moment, 600.0 if while_writing else rng.uniform(0.0, seconds))
    if not killed:
        return None
    if processes.is_writing_a_checkpoint(workdir):
        return "while a checkpoint was being written"
    if not (workdir / "checkpoints").exists():
        return "before the first checkpoint's folder"
    return "at another moment"


def _killed_run(
    workdir: Path, kills: int, rng: random.Random, seconds: float, bar: tqdm
) -> list[str]:
    """Kills one run some times; what it was doing each time."""
    found = []
    while len(found) < kills:
        doing = _kill(workdir, bool(rng.getrandbits(1)), rng, seconds)
        if doing is None:  # the run is over
            break
        found.append(doing)
        bar.update()
    return found


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how many at least")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments = parser.parse_args()
    compilation.set_cpu_flags()
    rng, doing = random.Random(arguments.seed), []
    runs = survived = identical = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=arguments.kills, unit=" kills") as bar,
    ):
        whole = Path(folder) / "whole"
        processes.train(whole, *processes.ARGUMENTS)
        start = time.monotonic()
        processes.train(Path(folder) / "again", *processes.ARGUMENTS)
        seconds = time.monotonic() - start
        while len(doing) < arguments.kills:
            workdir = Path(folder) / f"run_{runs}"
            kills = min(_KILLS_A_RUN, arguments.kills - len(doing))
            doing += (found := _killed_run(workdir, kills, rng, seconds, bar))
            runs += 1
            try:
                processes.train(workdir, *processes.ARGUMENTS)
                survived += len(found)
                processes.assert_same_run(workdir, whole)
                identical += 1
            except AssertionError as error:
                bar.write(f"{workdir}: {error}")
    print(f"{describe_machine()}; a run takes {seconds:.1f} s; seed {arguments.seed}\n")
    rows = [(name, str(doing.count(name))) for name in sorted(set(doing))]
    print_table(("killed", "times"), [*rows, ("together", str(len(doing)))])
    print(f"\nsurvived: {survived} of {len(doing)} kills; identical: {identical} of {runs} runs")
    if survived < len(doing) or identical < runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
