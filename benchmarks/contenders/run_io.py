"""What the peers' programs of whole runs share: arguments, MNIST's files, a grid of samples."""

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

_HEADER_BYTES = 16  # of the IDX format: a magic number and three sizes
_COLUMNS = 10


def parse_arguments(description: str) -> argparse.Namespace:
    """Parses what `train_run.py` gives each program."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's files")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights and samples")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--validation_size", type=int, default=5000)
    parser.add_argument("--compiled", action="store_true", help="PyTorch: compiled, fused Adam")
    return parser.parse_args()


def load_images(folder: Path, validation_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Loads the images to train on and those to validate on, the first of the official ones.

    Returns:
      Both `<float32>[n, 28, 28]`, intensities in [0, 1].
    """
    path = folder / "train-images-idx3-ubyte"
    if path.exists():
        content = path.read_bytes()
    else:
        content = gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())
    pixels = np.frombuffer(content, np.uint8, offset=_HEADER_BYTES).reshape(-1, 28, 28)
    images = pixels.astype(np.float32) / 255
    return images[validation_size:], images[:validation_size]


def save_grid(path: Path, images: np.ndarray) -> None:
    """Saves `<float>[n, 28, 28]` images, in [0, 1], as one picture of ten columns."""
    rows = images.reshape(-1, _COLUMNS, 28, 28).transpose(0, 2, 1, 3).reshape(-1, _COLUMNS * 28)
    Image.fromarray((255 * rows).astype(np.uint8)).save(path)
