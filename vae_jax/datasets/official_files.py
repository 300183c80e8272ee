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

# The SHA-256 of what is inside. KMNIST's are not published: its files are told by those of the
# `.gz` files, which TensorFlow Datasets registers.
_CONTENT_SHA256 = {
    "mnist": {
        FILE_NAMES[0]: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        FILE_NAMES[1]: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        FILE_NAMES[2]: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        FILE_NAMES[3]: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        FILE_NAMES[0]: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        FILE_NAMES[1]: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        FILE_NAMES[2]: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        FILE_NAMES[3]: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "kmnist": {},
}


def registered(name: str) -> dict[str, checksums.UrlInfo]:
    """Returns what TensorFlow Datasets registers of a data set's files.

    Args:
      name: "mnist", "fashion_mnist" or "kmnist".

    Returns:
      The size, SHA-256 and name of each of the four files, by its official address.
    """
    return checksums.load_url_infos(tfds.core.tfds_path("url_checksums", f"{name}.txt"))


def content_sha256(name: str) -> Mapping[str, str]:
    """Returns the SHA-256 of what the files hold, by their official names, where it is known."""
    return _CONTENT_SHA256[name]


def find(folder: str) -> dict[str, str]:
    """Finds the four files in a folder, by their official names.

    Each may be compressed or not, and its name may have a dot for the hyphen before "idx".

    Raises:
      UserError: it is no folder, or a file is missing.
    """
    if not os.path.isdir(folder):
        raise UserError(
            f"data.manual_dir={folder} is not a folder; give the folder that holds "
            f"{', '.join(FILE_NAMES)}"
        )
    paths = {}
    for official in FILE_NAMES:
        dotted = official.replace("-idx", ".idx")
        names = (official, official[:-3], dotted, dotted[:-3])
        found = (path for name in names if os.path.isfile(path := os.path.join(folder, name)))
        paths[official] = next(found, "")
        if not paths[official]:
            raise UserError(
                f"{official} is missing in data.manual_dir={folder}; put the official file there, "
                f"as {', '.join(names[:-1])} or {names[-1]} (nothing is downloaded while "
                "data.manual_dir is set)"
            )
    return paths


def read(name: str, paths: Mapping[str, str | os.PathLike[str]]) -> dict[str, Split]:
    """Reads and checks the four files.

    Args:
      name: "mnist", "fashion_mnist" or "kmnist".
      paths: where each file lies, by its official name.

    Returns:
      The splits "train" and "test".

    Raises:
      UserError: a file is unreadable or malformed, a split's images and labels differ in
        number, or a file's SHA-256 is not the official one.
    """
    arrays = {}
    for official, path in paths.items():
        read_file = idx.read_images if "-images-" in official else idx.read_labels
        arrays[official] = read_file(path)
    splits = {split: _join(arrays, paths, *files) for split, files in SPLIT_FILES.items()}
    # After parsing: "truncated" or "wrong magic number" helps more than "wrong SHA-256".
    known = content_sha256(name)
    for info in registered(name).values():
        official, path = info.filename, paths[info.filename]
        if official in known:
            whose, expected = "content", known[official]
            found = idx.content_sha256(arrays[official])  # unpacked
        else:
            whose, expected = ".gz file", info.checksum
            found = checksums.compute_url_info(path).checksum
        if found != expected:
            raise UserError(
                f"{path}: its SHA-256 is {found}, but the official {whose}'s is {expected}; "
                f"replace it by the official {official}"
            )
    return splits


def _join(
    arrays: Mapping[str, np.ndarray],
    paths: Mapping[str, str | os.PathLike[str]],
    images_file: str,
    labels_file: str,
) -> Split:
    images, labels = arrays[images_file], arrays[labels_file]
    if len(images) != len(labels):
        raise UserError(
            f"{paths[images_file]} holds {len(images)} images, but {paths[labels_file]} "
            f"holds {len(labels)} labels; replace both by the official files"
        )
    return Split(images=images[..., np.newaxis], labels=labels)
