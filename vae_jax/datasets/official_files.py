"""The four official files of each data set: their addresses, SHA-256 and contents."""

import os
from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from vae_jax.datasets import idx
from vae_jax.datasets.structs import Split
from vae_jax.runtime.errors import UserError

# MNIST, Fashion-MNIST and KMNIST all give their files these names.
SPLIT_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
FILE_NAMES = tuple(name for names in SPLIT_FILES.values() for name in names)


def registered(name: str) -> dict[str, checksums.UrlInfo]:
    """Returns what TensorFlow Datasets registers of a data set's files.

    Args:
      name: "mnist", "fashion_mnist" or "kmnist".

    Returns:
      The size, SHA-256 and name of each of the four files, by its official address.
    """
    return checksums.load_url_infos(tfds.core.tfds_path("url_checksums", f"{name}.txt"))


def read(
    paths: Mapping[str, str | os.PathLike[str]], url_infos: Mapping[str, checksums.UrlInfo]
) -> dict[str, Split]:
    """Reads and checks the four files.

    Args:
      paths: where each file lies, by its official name.
      url_infos: what `registered` returns.

    Returns:
      The splits "train" and "test".

    Raises:
      UserError: a file is unreadable or malformed, a split's images and labels differ in
        number, or a file's SHA-256 is not the registered one.
    """
    splits = {name: _read_split(paths, *files) for name, files in SPLIT_FILES.items()}
    # After parsing: "truncated" or "wrong magic number" helps more than "wrong SHA-256".
    for info in url_infos.values():
        found = checksums.compute_url_info(paths[info.filename])
        if found.checksum != info.checksum:
            raise UserError(
                f"{paths[info.filename]}: its SHA-256 is {found.checksum}, but the official "
                f"file's is {info.checksum}; replace it by the official file"
            )
    return splits


def _read_split(
    paths: Mapping[str, str | os.PathLike[str]], images_file: str, labels_file: str
) -> Split:
    images, labels = idx.read_images(paths[images_file]), idx.read_labels(paths[labels_file])
    if len(images) != len(labels):
        raise UserError(
            f"{paths[images_file]} holds {len(images)} images, but {paths[labels_file]} "
            f"holds {len(labels)} labels; replace both by the official files"
        )
    return Split(images=images[..., np.newaxis], labels=labels)
