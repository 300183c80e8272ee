"""Seconds an epoch for images of different shapes, with the model of `configs/images.py`.

  python benchmarks/shapes.py

Each row is the second of two epochs of 2,000 random images, in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
from common import ROOT, describe_machine, load_config, print_table

SHAPES = ((28, 28, 1), (28, 20, 1), (105, 105, 1), (8, 8, 1), (1, 40, 1), (32, 32, 3), (64, 64, 3))
_NUM_IMAGES = 2_000


def measure(shape: tuple[int, int, int]) -> float:
    """Trains two epochs in this process; returns the seconds of the second."""
    from tqdm import tqdm

    from vae_jax.datasets import DataSpec
    from vae_jax.model.structs import Batch
    from vae_jax.runtime import compilation, devices
    from vae_jax.training import steps
    from vae_jax.training.settings import train_settings
    from vae_jax.training.trainer import train_one_epoch

    compilation.set_cpu_flags()
    config = load_config("configs/images.py")
    mesh = devices.make_mesh(1, config.train.batch_size)
    steps_per_epoch = _NUM_IMAGES // config.train.batch_size
    settings = train_settings(config, DataSpec(shape), steps_per_epoch, mesh)
    images = np.random.default_rng(0).integers(0, 256, (_NUM_IMAGES, *shape)).astype(np.uint8)
    data, state = devices.replicate(Batch(images), mesh), steps.initial_state(settings, seed=0)
    seconds = 0.0
    for epoch in (1, 2):
        start = time.perf_counter()
        state, _ = train_one_epoch(settings, state, data, epoch, tqdm(disable=True))
        seconds = time.perf_counter() - start
    return seconds


def main() -> None:
    """Measures each shape in a process of its own."""
    parser = argparse.ArgumentParser(description="Times an epoch for images of several shapes.")
    parser.add_argument("--shape", help=argparse.SUPPRESS)  # a process of its own
    shape = parser.parse_args().shape
    if shape:
        height, width, channels = map(int, shape.split("x"))
        print(measure((height, width, channels)))
        return
    print(describe_machine())
    rows = (_row("x".join(map(str, each))) for each in SHAPES)
    print_table(["images", "seconds an epoch of 2,000", "images a second"], rows)


def _row(shape: str) -> list[str]:
    command = [sys.executable, __file__, f"--shape={shape}"]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    if result.returncode:
        return [shape, "failed", result.stderr.strip().splitlines()[-1]]
    seconds = float(result.stdout)
    return [shape, f"{seconds:.2f}", f"{_NUM_IMAGES / seconds:.0f}"]


if __name__ == "__main__":
    main()
