"""A whole run, from the command to the trained model and its samples, beside PyTorch's and Keras's.

  python benchmarks/train_run.py --mnist=FOLDER --peers_python=.venv-peers/bin/python

Two epochs of `configs/baseline.py` on 55,000 images of MNIST, validated on the other 5,000, each
contender as people write it (`contenders/*_run.py`), one after another: about 15 minutes on two
cores; `--small` tries all of it on 4,000 digits in two. FOLDER holds the four official files.

Ours is `main.py`: beside validation, weights and samples, which all leave, it keeps checkpoints
and evaluates the test images. First its caches are empty (compiled programs, prepared data), then
they hold what that run left. Memory is that of the process and its children, looked at ten times a
second, what they share counted once; a GPU's is not in it.
"""

import argparse
import os
import re
import shutil
import statistics
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import ROOT, describe_machine, print_table
from watched import Watched, watch

from vae_jax import datasets

NUM_EPOCHS = 2
_PROGRAMS = ROOT / "benchmarks" / "contenders"
_OURS = "ours"
_ROW = re.compile(r"epoch (\d+)/\d+: train ([\d.]+), validation ([\d.]+)")


@dataclass(frozen=True)
class Data:
    """Where the images are.

    Attributes:
      overrides: of this project's configuration.
      folder: of the official files, for the peers.
      validation_size: how many of the official training images validate.
    """

    overrides: list[str]
    folder: Path
    validation_size: int


def small_data(folder: Path) -> Data:
    """Writes the embedded digits as the peers read them, the validation images first."""
    dataset = datasets.load("mnist_5k")
    images = np.concatenate([dataset.validation.images, dataset.train.images])
    header = struct.pack(">4I", 2051, *images.shape[:3])
    (folder / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    return Data(["--config.data.name=mnist_5k"], folder, len(dataset.validation))


def mnist_data(mnist: str) -> Data:
    """Takes the four official files as they are."""
    return Data([f"--config.data.manual_dir={mnist}"], Path(mnist), 5000)


def run_ours(data: Data, folder: Path, caches: Path) -> Watched:
    """Runs this project, with caches that may be empty, in a folder of its own."""
    command = [sys.executable, str(_PROGRAMS / "ours_run.py"), f"--workdir={folder}"]
    command += [f"--config={ROOT / 'configs' / 'baseline.py'}", *data.overrides]
    command += [f"--config.train.num_epochs={NUM_EPOCHS}", f"--config.data.data_dir={caches}/data"]
    # Else the user's own folder would be taken.
    environment = {"XDG_CACHE_HOME": str(caches), "JAX_COMPILATION_CACHE_DIR": ""}
    return watch(command, environment)


def run_peer(python: str, program: str, data: Data, folder: Path, caches: Path) -> Watched:
    """Runs a program of `contenders/`, with arguments perhaps, in a folder of its own."""
    name, *more = program.split()
    command = [python, str(_PROGRAMS / f"{name}.py"), f"--data={data.folder}", f"--output={folder}"]
    command += [f"--epochs={NUM_EPOCHS}", f"--validation_size={data.validation_size}", *more]
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(caches), "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return watch(command, environment)


def contenders(python: str, data: Data, scratch: Path) -> Iterator[tuple[str, Watched]]:
    """Runs them one after another; yields each one's name and what was seen."""
    peers = (
        ("PyTorch, DataLoader and a loop", "pytorch_run"),
        ("PyTorch, compiled, fused Adam", "pytorch_run --compiled"),
        ("Keras, fit", "keras_run"),
    )
    caches = scratch / "caches"
    shutil.rmtree(caches, ignore_errors=True)
    for state in ("empty caches", "filled caches"):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            yield f"{_OURS}, {state}", run_ours(data, Path(folder), caches)
    for name, program in peers:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            yield name, run_peer(python, program, data, Path(folder), caches / "pytorch")


def parts(run: Watched) -> list[float]:
    """Returns the seconds to the first step, of it, of each epoch without it, and to the end."""
    marks = [run.when("first step begins"), run.when("first step done")]
    marks += [run.when(f"epoch {epoch}/") for epoch in range(1, NUM_EPOCHS + 1)]
    marks.append(run.seconds)
    return [marks[0], *np.diff(marks)]


def last_losses(run: Watched) -> tuple[str, str]:
    """Returns training and validation loss of the last epoch."""
    rows = [found for _, line in run.lines if (found := _ROW.match(line))]
    return rows[-1][2], rows[-1][3]


def _medians(runs: list[Watched]) -> list[float]:
    columns = zip(*([*parts(run), run.seconds] for run in runs), strict=True)
    return [statistics.median(column) for column in columns]


def table(runs: dict[str, list[Watched]], reference: str) -> Iterator[tuple[str, ...]]:
    """Yields a row for each contender: medians over the rounds."""
    total = _medians(runs[reference])[-1]
    for name, each in runs.items():
        seconds = _medians(each)
        memory = statistics.median(run.peak_bytes for run in each) / 2**20
        yield (
            name,
            *(f"{value:.1f}" for value in seconds),
            f"{seconds[-1] / total:.2f}",
            f"{memory:.0f}",
            " / ".join(last_losses(each[-1])),
        )


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", default=os.environ.get("MNIST_DIR"), help="the four files")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="4,000 digits that need no files")
    arguments = parser.parse_args()
    if not (arguments.small or arguments.mnist):
        sys.exit("error: --mnist is missing; give the folder of MNIST's four files, or --small")
    runs: dict[str, list[Watched]] = {}
    print(f"{describe_machine()}; configs/baseline.py, {NUM_EPOCHS} epochs\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = small_data(folder) if arguments.small else mnist_data(arguments.mnist)
        for _ in range(arguments.rounds):
            for name, run in contenders(arguments.peers_python, data, folder):
                if run.problem:
                    print(f"left out: {name}: {run.problem}", flush=True)
                    continue
                print(f"done: {name}: {run.seconds:.1f} s", flush=True)
                runs.setdefault(name, []).append(run)
    if not runs:
        sys.exit(1)
    epochs = (f"epoch {epoch}" for epoch in range(1, NUM_EPOCHS + 1))
    header = ("seconds", "to the first step", "first step", *epochs, "end", "in all")
    reference = f"{_OURS}, filled caches"
    print()
    print_table(
        (*header, "times ours", "peak MiB", "loss, training / validation"),
        table(runs, reference if reference in runs else next(iter(runs))),
    )


if __name__ == "__main__":
    main()
