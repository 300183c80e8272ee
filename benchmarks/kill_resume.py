"""Kills a training process again and again, and compares its result.

  python benchmarks/kill_resume.py --kills=50
  python benchmarks/kill_resume.py --kills=50 --checkpoint_seconds=10

Runs of one seed are killed (SIGKILL): by the toss of a coin while a checkpoint is being written, or
at a random moment of the time that a run takes, start and plots included. Each is then trained to
its end and compared bit for bit with an uninterrupted run that has a checkpoint after every epoch:
parameters, optimizer state, metrics, best epoch, samples. Status 1 if a run does not resume, or
ends differently.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from common import describe_machine

from tests.support import processes
from vae_jax.runtime import compilation

_KILLS_A_RUN = 5


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--checkpoint_seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    seldom = f"--config.train.checkpoint_seconds={arguments.checkpoint_seconds}"
    fields = (*processes.ARGUMENTS, seldom)
    compilation.set_cpu_flags()
    rng, runs, identical, killed, while_writing = random.Random(0), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted = Path(folder) / "uninterrupted"
        processes.train(uninterrupted, *processes.ARGUMENTS)
        start = time.monotonic()
        processes.train(Path(folder) / "again", *processes.ARGUMENTS)
        seconds = time.monotonic() - start
        print(f"{describe_machine()}; a run takes {seconds:.1f} s", flush=True)
        while killed < arguments.kills:
            workdir, runs = Path(folder) / f"run_{runs}", runs + 1
            for _ in range(min(_KILLS_A_RUN, arguments.kills - killed)):
                waits = bool(rng.getrandbits(1))
                latest = 600.0 if waits else rng.uniform(0.0, seconds)

                def is_time(workdir: Path = workdir, waits: bool = waits) -> bool:
                    return waits and processes.is_writing_a_checkpoint(workdir)

                if not processes.kill(processes.start(workdir, *fields), is_time, latest):
                    break  # the run is complete
                killed += 1
                while_writing += processes.is_writing_a_checkpoint(workdir)
            try:
                processes.train(workdir, *fields)
                processes.assert_same_run(workdir, uninterrupted)
                identical += 1
            except AssertionError as error:
                print(f"{workdir}: {error}", flush=True)
    print(f"killed {killed} times, {while_writing} of them while a checkpoint was being written")
    print(f"identical: {identical} of {runs} runs")
    sys.exit(identical < runs)


if __name__ == "__main__":
    main()
