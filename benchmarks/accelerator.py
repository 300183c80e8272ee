"""All that means something on an accelerator, in one command of at most nine minutes.

  python benchmarks/accelerator.py --mnist=FOLDER

Fifty epochs of `configs/baseline.py` from the command to the plots; 8 replicas against 1; an epoch
of the flagship; one training step of three configurations and the uses of a trained model, beside
PyTorch, plain Flax and Keras. Every part has its share of the time; one that fails, or does not
come to its end, is named, and the rest goes on. Nothing is fetched. FOLDER holds MNIST's four
official files; without them the embedded digits take their place, again and again, until they are
as many. `--small` tries all parts on a CPU, in about four minutes on two cores.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import ROOT, SHARED_GPU, describe_machine
from watched import Watched, watch

from vae_jax import datasets
from vae_jax.datasets import idx

_TOTAL_SECONDS = 530.0
_BENCHMARKS = ROOT / "benchmarks"
_DEVICE = "import jax; print(f'{jax.device_count()} x {jax.devices()[0].device_kind}, '"
_DEVICE += "f'JAX {jax.__version__}')"


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
      num_epochs: of the whole run.
      num_images: to train on in it.
      num_replicas: beside one.
      times: the embedded 4,000 images in an epoch of replicas, and of the flagship.
      step_shares: of the time, by the configuration whose step is timed.
      step: arguments of `train_step.py`.
      inference: arguments of `inference.py`.
    """

    num_epochs: int = 50
    num_images: int = 55_000
    num_replicas: int = 8
    times: float = 12.5
    step_shares: tuple[tuple[str, float], ...] = (
        ("baseline", 55),
        ("flagship", 80),  # its programs take the longest to compile
        ("optimized", 55),
    )
    step: tuple[str, ...] = ("--rounds=2", "--steps=64")
    inference: tuple[str, ...] = ()


_SMALL = Size(
    num_epochs=1,
    num_images=400,
    num_replicas=2,
    times=0.05,
    step_shares=(("quickstart", 150),),
    step=("--rounds=1", "--steps=1"),
    inference=("--rounds=1", "--num_images=100", "--num_likelihoods=5", "--num_samples=10"),
)


def write_images(path: Path, mnist: str | None, num_images: int) -> str:
    """Writes three splits as `--config.data.path` takes them; returns what they are.

    TensorFlow Datasets, which prepares MNIST elsewhere, need not be there.
    """
    sizes = {"train": num_images, "val": num_images // 11, "test": 2 * num_images // 11}
    if mnist:
        train, test = (_official_images(Path(mnist), name) for name in ("train", "t10k"))
        images = {"val": train[:5000], "train": train[5000:], "test": test}
    else:
        digits = datasets.load("mnist_5k")
        splits = {"train": digits.train, "val": digits.validation, "test": digits.test}
        images = {name: split.images[..., 0] for name, split in splits.items()}
    arrays = {
        f"{name}_images": np.resize(images[name], (size, 28, 28)) for name, size in sizes.items()
    }
    np.savez(path, **arrays)
    return "of MNIST" if mnist else "of the embedded digits, repeated"


def _official_images(folder: Path, name: str) -> np.ndarray:
    path = folder / f"{name}-images-idx3-ubyte"
    path = path if path.exists() else path.with_name(f"{path.name}.gz")
    return idx.parse(idx.read_content(path))


class Parts:
    """Runs parts one after another, each in its share of the time that is left."""

    def __init__(self, shares: list[float]):
        self._shares, self._end = shares, time.perf_counter() + _TOTAL_SECONDS

    def run(self, command: list[str], echo: bool = False, **environment: str) -> Watched | None:
        """Runs the next part; None, and a line that says why, where it does not come to its end."""
        share = self._shares[0] / sum(self._shares)
        self._shares = self._shares[1:]
        limit = share * (self._end - time.perf_counter())
        run = watch(command, SHARED_GPU | environment, limit=max(limit, 1.0), echo=echo)
        if run.problem:
            print(f"\nleft out: {' '.join(command[1:3])}: {run.problem}", flush=True)
            return None
        return run


def print_row(*cells: str) -> None:
    """Prints a row of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def whole_run(parts: Parts, size: Size, scratch: Path, what: str) -> None:
    """Trains `configs/baseline.py` from the command to the plots, with empty caches."""
    command = [sys.executable, str(_BENCHMARKS / "contenders" / "ours_run.py")]
    command += [f"--config={ROOT / 'configs' / 'baseline.py'}", f"--workdir={scratch / 'run'}"]
    command += ["--config.data.name=images", f"--config.data.path={scratch / 'images.npz'}"]
    command += [f"--config.train.num_epochs={size.num_epochs}"]
    caches = {"XDG_CACHE_HOME": str(scratch), "TFDS_DATA_DIR": str(scratch)}
    run = parts.run(command, JAX_COMPILATION_CACHE_DIR="", **caches)
    if run is None:
        return
    begun, done = run.when("first step begins"), run.when("first step done")
    trained = run.when(f"epoch {size.num_epochs}/{size.num_epochs}")
    test = next(found[0] for _, line in run.lines if (found := re.search(r"test [\d.]+", line)))
    print_row(
        f"`baseline` to epoch {size.num_epochs}, {size.num_images} images {what}",
        f"{run.seconds:.1f}",
        f"to the first step {begun:.1f}, first step {done - begun:.1f}, epochs "
        f"{trained - done:.1f}, end {run.seconds - trained:.1f}; {test} nats",
    )


def epoch(parts: Parts, name: str, config: str, **case: float) -> float | None:
    """Times the second epoch and its validation; returns its seconds."""
    command = [sys.executable, str(_BENCHMARKS / "epochs.py"), f"--config={config}"]
    run = parts.run([*command, f"--case={json.dumps(case)}"])
    if run is None:
        return None
    found = json.loads(run.lines[-1][1])
    speed, memory = found["images"] / found["seconds"], found["bytes"] / 2**20
    what = f"{name}, an epoch of {found['images']:.0f} images"
    print_row(what, f"{found['seconds']:.2f}", f"{speed:.0f} images/s, peak {memory:.0f} MiB")
    return found["seconds"]


def steps_and_uses(parts: Parts, size: Size, peers_python: str) -> None:
    """Has the benchmarks of single steps and of trained models print their tables."""
    peers = f"--peers_python={peers_python}"
    commands = [("train_step.py", config, size.step) for config, _ in size.step_shares]
    for script, config, more in [*commands, ("inference.py", "flagship", size.inference)]:
        print(f"\n{script}, `{config}`\n", flush=True)
        command = [sys.executable, str(_BENCHMARKS / script), f"--config={config}", peers, *more]
        parts.run(command, echo=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", default=os.environ.get("MNIST_DIR"), help="the four files")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--small", action="store_true", help="little of everything, on a CPU")
    arguments = parser.parse_args()
    size = _SMALL if arguments.small else Size()
    # The device, the run, three epochs, the steps, the uses.
    parts = Parts([10, 110, 45, 45, 75, *(share for _, share in size.step_shares), 55])
    device = parts.run([sys.executable, "-c", _DEVICE])
    device_name = device.lines[-1][1] if device else "no device"
    print(f"{describe_machine()}; {device_name}\n", flush=True)
    print_row("", "seconds", "")
    print_row(*["---"] * 3)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        what = write_images(scratch / "images.npz", arguments.mnist, size.num_images)
        whole_run(parts, size, scratch, what)
    small_model = "quickstart" if arguments.small else "baseline"
    one = epoch(parts, f"`{small_model}`", small_model, times=size.times)
    name = f"`{small_model}`, {size.num_replicas} replicas"
    all_of_them = epoch(parts, name, small_model, times=size.times, num_replicas=size.num_replicas)
    if one and all_of_them:
        print_row(
            f"{size.num_replicas} replicas in the time of one", f"{all_of_them / one:.2f}", ""
        )
    epoch(parts, "`flagship`", "flagship", times=size.times)
    steps_and_uses(parts, size, arguments.peers_python)
    print(f"\n{device_name}")


if __name__ == "__main__":
    main()
