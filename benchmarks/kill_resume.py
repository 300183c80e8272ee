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
import signal
import sys
import tempfile
import time
from pathlib import Path

from common import TINY_MODEL, describe_machine

from tests.support import processes
from vae_jax.runtime import compilation
from vae_jax.runtime.files import PARTIAL_PREFIX

_KILLS_A_RUN = 5


def _kill(workdir: Path, arguments: list[str], while_writing: bool, seconds: float) -> bool | None:
    """Starts a run and kills it; returns whether a checkpoint was unfinished, None if it ended."""
    process, deadline = processes.start(workdir, *arguments), time.monotonic() + seconds
    checkpoints, partial = workdir / "checkpoints", f"{PARTIAL_PREFIX}*"
    while process.poll() is None and time.monotonic() < deadline:
        if while_writing and any(checkpoints.glob(partial)):
            break
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    is_killed = process.returncode == -signal.SIGKILL
    return any(checkpoints.glob(partial)) if is_killed else None


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--checkpoint_seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    often = ["--config=quickstart", *TINY_MODEL, "--config.train.checkpoint_seconds=0"]
    often += ["--config.train.batch_size=20", "--config.train.num_epochs=3"]  # of 200 steps
    seldom = [*often, f"--config.train.checkpoint_seconds={arguments.checkpoint_seconds}"]
    compilation.set_cpu_flags()
    rng, runs, identical, killed, unfinished = random.Random(0), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted = Path(folder) / "uninterrupted"
        processes.train(uninterrupted, *often)
        start = time.monotonic()
        processes.train(Path(folder) / "again", *often)
        seconds = time.monotonic() - start
        print(f"{describe_machine()}; a run takes {seconds:.1f} s", flush=True)
        while killed < arguments.kills:
            workdir, runs = Path(folder) / f"run_{runs}", runs + 1
            for _ in range(min(_KILLS_A_RUN, arguments.kills - killed)):
                while_writing = bool(rng.getrandbits(1))
                latest = 600.0 if while_writing else rng.uniform(0.0, seconds)
                was_writing = _kill(workdir, seldom, while_writing, latest)
                if was_writing is None:  # the run is complete
                    break
                killed, unfinished = killed + 1, unfinished + was_writing
            try:
                processes.train(workdir, *seldom)
                processes.assert_same_run(workdir, uninterrupted)
                identical += 1
            except AssertionError as error:
                print(f"{workdir}: {error}", flush=True)
    print(f"{killed} kills, {unfinished} during a checkpoint; {identical} of {runs} runs identical")
    sys.exit(identical < runs)


if __name__ == "__main__":
    main()
