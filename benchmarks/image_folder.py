"""Start-up on a folder of one's own images: the first time, which decodes them, and the second.

  python benchmarks/image_folder.py

The images are synthetic color PNG and JPEG files in a temporary folder, half of each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, describe_machine, print_table
from PIL import Image

# Of both times a process of its own, so that imports count.
_LOAD = """
import sys, time
start = time.perf_counter()
from vae_jax import datasets
path, data_dir, size = sys.argv[1:]
dataset = datasets.load(
    "images", data_dir, path=path, image_size=(int(size),) * 2, validation_size=1_000,
    test_size=1_000,
)
assert dataset.image_shape == (int(size), int(size), 3)
print(time.perf_counter() - start)
"""


def make_images(folder: Path, count: int, size: int) -> None:
    """Writes `count` images of smooth random color, PNG and JPEG in turn, in ten classes."""
    generator = np.random.RandomState(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for index in range(count):
        coarse = Image.fromarray(generator.randint(0, 256, (8, 8, 3)).astype(np.uint8))
        image = coarse.resize((size, size), Image.Resampling.BICUBIC)
        suffix = ("png", "jpg")[index % 2]
        image.save(folder / str(index % 10) / f"{index:06d}.{suffix}")


def seconds_to_load(folder: Path, data_dir: Path, size: int) -> tuple[float, float]:
    """Loads the images in a new process; returns the seconds inside it and with its start."""
    command = [sys.executable, "-c", _LOAD, str(folder), str(data_dir), str(size)]
    start = time.perf_counter()
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(result.stdout), time.perf_counter() - start


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--original", type=int, default=64, help="height and width in the files")
    parser.add_argument("--size", type=int, default=64, help="height and width to bring them to")
    arguments = parser.parse_args()
    print(f"{describe_machine()}; {arguments.images:,} images\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder, data_dir = Path(temporary) / "images", Path(temporary) / "data"
        make_images(folder, arguments.images, arguments.original)
        rows = [
            (
                name,
                *(
                    f"{seconds:.2f}"
                    for seconds in seconds_to_load(folder, data_dir, arguments.size)
                ),
            )
            for name in ("first", "second", "third")
        ]
    print_table(("start", "seconds to load", "with the process"), rows)


if __name__ == "__main__":
    main()
