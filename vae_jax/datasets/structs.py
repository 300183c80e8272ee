"""The structs that hold a data set, and the fingerprint of what they hold."""

import dataclasses
import hashlib

import numpy as np


# eq=False: comparing arrays field by field has no single truth value.
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in the same order."""

    images: np.ndarray  # `<uint8>[n, height, width]`
    labels: np.ndarray  # `<uint8>[n]`, each 0 to 9

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> "Split":
        return Split(images=self.images[rows], labels=self.labels[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three splits."""

    name: str
    train: Split
    validation: Split
    test: Split
    sha256: str  # hexadecimal, of the gray images and the labels of all three splits


def sha256_of(*splits: Split) -> str:
    """Returns the hexadecimal SHA-256 of the splits' images and labels, in the given order.

    The shapes are hashed too, so that moving images from one split to the next is a change.
    """
    digest = hashlib.sha256()
    for split in splits:
        for array in (split.images, split.labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
