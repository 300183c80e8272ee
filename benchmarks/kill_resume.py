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
import collections
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import describe_machine, print_table
from tqdm import tqdm

from tests.support import processes
from vae_jax.runtime import compilation
from vae_jax.runtime.files import PARTIAL_PREFIX

_KILLS_A_RUN = 5
# 3 epochs of 200 steps, of a model that takes a few milliseconds for one.
_FIELDS = (
    "--config=configs/quickstart.py",
    "--config.latent_size=4",
    "--config.encoder.kind=dense",
    "--config.encoder.dense_sizes=(8,)",
    "--config.decoder.dense_sizes=()",
    "--config.decoder.grid_channels=1",
    "--config.decoder.filters=(2,)",
    "--config.decoder.strides=(4,)",
    "--config.train.batch_size=20",
    "--config.train.num_epochs=3",
    "--config.train.checkpoint_seconds=0",
)


def _is_writing_a_checkpoint(workdir: Path) -> bool:
    """Whether an unfinished checkpoint exists."""
    return any((workdir / "checkpoints").glob(f"{PARTIAL_PREFIX}*"))


def _kill(
    workdir: Path, fields: Sequence[str], while_writing: bool, rng: random.Random, seconds: float
) -> str | None:
    """Starts a run and kills it; returns the moment, or None if it had ended before."""
    process = processes.start(workdir, *fields)
    deadline = time.monotonic() + (600.0 if while_writing else rng.uniform(0.0, seconds))
    while process.poll() is None and time.monotonic() < deadline:
        if while_writing and _is_writing_a_checkpoint(workdir):
            break
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        return None
    if _is_writing_a_checkpoint(workdir):
        return "while a checkpoint was being written"
    has_begun = (workdir / "checkpoints").exists()
    return "at another moment" if has_begun else "before the first checkpoint's folder"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--checkpoint_seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    seldom = f"--config.train.checkpoint_seconds={arguments.checkpoint_seconds}"
    fields = (*_FIELDS, seldom)
    compilation.set_cpu_flags()
    rng, moments = random.Random(arguments.seed), collections.Counter()
    runs = identical = 0
    with tempfile.TemporaryDirectory() as folder, tqdm(total=arguments.kills) as bar:
        uninterrupted = Path(folder) / "uninterrupted"
        processes.train(uninterrupted, *_FIELDS)
        start = time.monotonic()
        processes.train(Path(folder) / "again", *_FIELDS)
        seconds = time.monotonic() - start
        while moments.total() < arguments.kills:
            workdir, runs = Path(folder) / f"run_{runs}", runs + 1
            for _ in range(min(_KILLS_A_RUN, arguments.kills - moments.total())):
                moment = _kill(workdir, fields, bool(rng.getrandbits(1)), rng, seconds)
                if moment is None:  # the run is complete
                    break
                moments[moment] += 1
                bar.update()
            try:
                processes.train(workdir, *fields)
                processes.assert_same_run(workdir, uninterrupted)
                identical += 1
            except AssertionError as error:
                bar.write(f"{workdir}: {error}")
    print(f"{describe_machine()}; a run takes {seconds:.1f} s; seed {arguments.seed}\n")
    print_table(("killed", "times"), [(name, str(count)) for name, count in moments.items()])
    print(f"\nidentical: {identical} of {runs} runs, killed {moments.total()} times")
    sys.exit(identical < runs)


if __name__ == "__main__":
    main()
