"""A whole run, from the command to the trained model and its samples, beside PyTorch's and Keras's.

  python benchmarks/train_run.py --mnist=FOLDER --peers_python=.venv-peers/bin/python

Two epochs of `configs/baseline.py` on 55,000 images of MNIST, validated on the other 5,000, one
contender after another: about 15 minutes on two cores. FOLDER holds the four official files.

Ours is `main.py`: beside validation, weights and samples, which all have, it saves checkpoints and
evaluates the test images. It runs with empty caches (compiled programs, prepared data) and then
with those that this run filled. Memory is that of the largest process, without a GPU's.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import (
    NUM_EPOCHS,
    ROOT,
    Watched,
    describe_machine,
    load_comparable_config,
    print_table,
    watch,
    watch_ours,
)

_PROGRAMS = ROOT / "benchmarks" / "contenders"
_REFERENCE = "ours, filled caches"
_PEERS = {
    "PyTorch, DataLoader and a loop": ["pytorch.py"],
    "PyTorch, compiled, fused Adam": ["pytorch.py", "--compiled"],
    "Keras, fit": ["keras_tensorflow.py"],
}


def contenders(python: str, mnist: Path, scratch: Path) -> Iterator[tuple[str, Watched]]:
    """Runs them one after another; yields each one's name and its run."""
    caches = scratch / "caches"
    ours = ["--config=baseline", f"--config.data.manual_dir={mnist}"]
    ours.append(f"--config.train.num_epochs={NUM_EPOCHS}")
    for name in ("ours, empty caches", _REFERENCE):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            yield name, watch_ours(caches, *ours, f"--workdir={folder}")
    config = json.dumps(load_comparable_config("baseline").to_dict())
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(caches), "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    environment["PYTHONPATH"] = str(ROOT / "benchmarks")
    for name, (program, *more) in _PEERS.items():
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            command = [python, str(_PROGRAMS / program), f"--data={mnist}", f"--output={folder}"]
            yield name, watch([*command, f"--config={config}", *more], environment)


def parts(run: Watched, num_epochs: int) -> list[float]:
    """Returns seconds: to the first step, of it, of each epoch without it, to the end, in all."""
    marks = [run.when("first step begins"), run.when("first step done")]
    marks += [run.when(f"epoch {epoch}/") for epoch in range(1, num_epochs + 1)]
    return [marks[0], *np.diff([*marks, run.seconds]), run.seconds]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, required=True, help="folder of the four files")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the peers")
    arguments = parser.parse_args()
    print(f"{describe_machine()}; configs/baseline.py, {NUM_EPOCHS} epochs\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        runs = dict(contenders(arguments.peers_python, arguments.mnist, Path(scratch)))
    rows = []
    for name, run in runs.items():
        if run.problem:
            print(f"left out: {name}: {run.problem}")
            continue
        cells = (f"{run.seconds / runs[_REFERENCE].seconds:.2f}", f"{run.peak_bytes / 2**20:.0f}")
        rows.append((name, *(f"{seconds:.1f}" for seconds in parts(run, NUM_EPOCHS)), *cells))
    epochs = (f"epoch {epoch}" for epoch in range(1, NUM_EPOCHS + 1))
    header = ("seconds", "to the first step", "first step", *epochs, "end", "in all")
    print_table((*header, "times ours", "peak MiB"), rows)


if __name__ == "__main__":
    main()
