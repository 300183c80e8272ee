"""Image sets larger than memory: peak memory and start of a run; streamed against on the device.

  python benchmarks/large_images.py --folder=FOLDER --gigabytes=8

Makes a file of color images of 64x64, noise, in --folder, if it is not there, trains a small model
on it for one epoch, streamed; starts a second run; encodes all of it; then compares the speed of
training on fewer images, streamed and on the device, in turns.
"""

import argparse
import csv
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import TINY_MODEL, Watched, describe_machine, print_table, watch_ours

_SIZE = 64
_BLOCK = 1_000  # images made at once


def make_images(path: Path, *shape: int) -> None:
    """Writes an `.npy` of noise, `<uint8>[n, height, width, channels]`."""
    random = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    for block in np.split(images, range(_BLOCK, len(images), _BLOCK)):
        block[:] = random.integers(0, 256, block.shape, np.uint8)


def run(path: Path, workdir: Path, *arguments: str, last: str | None = None) -> Watched:
    """Runs `main.py` on the images of a file, to its end or to a line with the beginning `last`."""
    files = (f"--workdir={workdir}", f"--config.data.path={path}")
    result = watch_ours(path.parent / "cache", *files, *arguments, last=last)
    if result.problem:
        sys.exit(f"error: {' '.join(arguments)}: {result.problem}")
    return result


def measure_large(path: Path, scratch: Path) -> None:
    """Prints time and memory of one epoch, of the start of another run, and of encoding."""
    rows = []
    for number, last in (("first", None), ("second", "first step done")):
        epoch = ("--config=images", "--config.train.batch_size=100", "--config.train.num_epochs=1")
        result = run(path, scratch / number, *TINY_MODEL, *epoch, last=last)
        begins, ends = result.when("first step begins"), result.when("first step done")
        cells = (f"{begins:.1f}", f"{ends:.1f}", "" if last else f"{result.seconds:.0f}")
        rows.append((f"{number} run", *cells, f"{result.peak_bytes / 2**30:.2f}"))
    encoding = run(path, scratch / "first", "--mode=encode", f"--input={path}")
    memory = f"{encoding.peak_bytes / 2**30:.2f}"
    rows.append(("encoding", "", "", f"{encoding.seconds:.0f}", memory))
    header = ("", "s to the first step", "s to its end", "s in all", "peak memory, GiB")
    print_table(header, rows)


def speed(path: Path, workdir: Path, on_device: str) -> float:
    """Trains for three epochs; returns the images a second of the last."""
    fields = (f"--config.data.on_device={on_device}", "--config.train.num_epochs=3")
    run(path, workdir, "--config=images", *fields)
    with (workdir / "metrics.csv").open() as file:
        return float([*csv.DictReader(file)][-1]["images_per_second"])


def compare(folder: Path, scratch: Path, rounds: int) -> None:
    """Prints the speed of streamed training over that with all images on the device."""
    rows = []
    for shape in ((8_000, 28, 28, 1), (2_500, 64, 64, 3)):
        name = "x".join(map(str, shape[1:]))
        path = folder / f"{name}.npy"
        make_images(path, *shape)
        speeds = {"true": [], "false": []}
        for number in range(rounds):
            for on_device, values in speeds.items():
                values.append(speed(path, scratch / f"{name}-{on_device}-{number}", on_device))
        on_device, streamed = (statistics.median(values) for values in speeds.values())
        rows.append((name, f"{on_device:.0f}", f"{streamed:.0f}", f"{streamed / on_device:.2f}"))
    print()
    print_table(("images", "images/s on the device", "streamed", "ratio"), rows)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the images are made")
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"{describe_machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        path = arguments.folder / f"images_{arguments.gigabytes:g}.npy"
        num_images = int(arguments.gigabytes * 2**30) // (_SIZE * _SIZE * 3)
        if not path.exists():
            make_images(path, num_images, _SIZE, _SIZE, 3)
        print(f"{num_images} images of {_SIZE}x{_SIZE}x3, {arguments.gigabytes:g} GiB\n")
        measure_large(path, Path(scratch))
        compare(arguments.folder, Path(scratch), arguments.rounds)


if __name__ == "__main__":
    main()
