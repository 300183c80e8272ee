"""A whole run, from the command to the trained model and its samples, beside PyTorch's and Keras's.

  python benchmarks/train_run.py --mnist=FOLDER --peers_python=.venv-peers/bin/python

Two epochs of `configs/baseline.py` on 55,000 images of MNIST, validated on the other 5,000, one
contender after another: about 15 minutes on two cores; `--small` tries all of it on 4,000 digits in
two. FOLDER holds the four official files.

Ours is `main.py`: beside validation, weights and samples, which all have, it saves checkpoints and
evaluates the test images. It runs with empty caches (compiled programs, prepared data) and then
with those that this run filled. Memory is that of the largest process, without a GPU's.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import ROOT, describe_machine, load_comparable_config, print_table
from watched import Watched, watch

from vae_jax import datasets

NUM_EPOCHS = 2
_PROGRAMS = ROOT / "benchmarks" / "contenders"
_ROW = re.compile(r"epoch (\d+)/\d+: train ([\d.]+), validation ([\d.]+)")
_PEERS = {
    "PyTorch, DataLoader and a loop": ["pytorch.py"],
    "PyTorch, compiled, fused Adam": ["pytorch.py", "--compiled"],
    "Keras, fit": ["keras_tensorflow.py"],
}


def write_small_data(folder: Path) -> int:
    """Writes the embedded digits as MNIST's official file; returns how many validate."""
    dataset = datasets.load("mnist_5k")
    images = np.concatenate([dataset.validation.images, dataset.train.images])
    header = struct.pack(">4I", 2051, *images.shape[:3])
    (folder / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    return len(dataset.validation)


def run_ours(
    config: str, folder: Path, caches: Path, arguments: list[str], limit: float | None = None
) -> Watched:
    """Runs this project in a folder, with caches that may be empty."""
    command = [sys.executable, str(_PROGRAMS / "ours_run.py"), f"--workdir={folder}"]
    command += [f"--config={config}", f"--config.data.data_dir={caches}/data", *arguments]
    # The user's own caches must not be used.
    environment = {"XDG_CACHE_HOME": str(caches), "JAX_COMPILATION_CACHE_DIR": ""}
    return watch(command, environment, limit=limit)


def contenders(
    python: str, mnist: str | None, small: bool, scratch: Path
) -> Iterator[tuple[str, Watched]]:
    """Runs them one after another; yields each one's name and its run."""
    caches, validation_size, data = scratch / "caches", 5000, Path(mnist or scratch)
    arguments = [f"--config.data.manual_dir={mnist}", f"--config.train.num_epochs={NUM_EPOCHS}"]
    if small:
        validation_size, data = write_small_data(scratch), scratch
        arguments[0] = "--config.data.name=mnist_5k"
    shutil.rmtree(caches, ignore_errors=True)
    for state in ("empty caches", "filled caches"):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            yield f"ours, {state}", run_ours("baseline", Path(folder), caches, arguments)
    config = json.dumps(load_comparable_config("baseline").to_dict())
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(caches), "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    environment["PYTHONPATH"] = str(ROOT / "benchmarks")
    for name, (program, *more) in _PEERS.items():
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            command = [python, str(_PROGRAMS / program), f"--data={data}", f"--output={folder}"]
            command += [f"--epochs={NUM_EPOCHS}", f"--validation_size={validation_size}"]
            yield name, watch([*command, f"--config={config}", *more], environment)


def parts(run: Watched) -> list[float]:
    """Returns the seconds to the first step, of it, of each epoch without it, to the end, in all.

    All runs print the same lines.
    """
    marks = [run.when("first step begins"), run.when("first step done")]
    marks += [run.when(f"epoch {epoch}/") for epoch in range(1, NUM_EPOCHS + 1)]
    return [marks[0], *np.diff([*marks, run.seconds]), run.seconds]


def table(runs: dict[str, list[Watched]]) -> Iterator[tuple[str, ...]]:
    """Yields a row for each contender: medians over the rounds."""
    reference = runs.get("ours, filled caches") or next(iter(runs.values()))
    total = statistics.median(run.seconds for run in reference)
    for name, each in runs.items():
        seconds = np.median([parts(run) for run in each], axis=0)
        memory = statistics.median(run.peak_bytes for run in each) / 2**20
        losses = [found for _, line in each[-1].lines if (found := _ROW.match(line))][-1]
        cells = (f"{seconds[-1] / total:.2f}", f"{memory:.0f}", f"{losses[2]} / {losses[3]}")
        yield name, *(f"{value:.1f}" for value in seconds), *cells


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
        for _ in range(arguments.rounds):
            for name, run in contenders(
                arguments.peers_python, arguments.mnist, arguments.small, Path(scratch)
            ):
                print(f"{name}: {run.problem or f'{run.seconds:.1f} s'}", flush=True)
                if not run.problem:
                    runs.setdefault(name, []).append(run)
    if not runs:
        sys.exit(1)
    epochs = (f"epoch {epoch}" for epoch in range(1, NUM_EPOCHS + 1))
    header = ("seconds", "to the first step", "first step", *epochs, "end", "in all")
    print()
    print_table((*header, "times ours", "peak MiB", "loss, training / validation"), table(runs))


if __name__ == "__main__":
    main()
