"""The structs that hold a data set, and the fingerprint of what they hold."""

import dataclasses
import hashlib

import numpy as np


# eq=False: comparing arrays field by field has no single truth value.
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images, their labels and the names of their files, in the same order."""

    images: np.ndarray  # `<uint8>[n, height, width, channels]`, 1 channel (gray) or 3 (RGB)
    labels: np.ndarray | None  # `<int>[n]`, indices of classes from 0; None where there are none
    names: np.ndarray | None = None  # `<str>[n]`, below the folder; None where there are no files

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | np.ndarray) -> "Split":
        labels, names = (None if each is None else each[rows] for each in (self.labels, self.names))
        return Split(images=self.images[rows], labels=labels, names=names)


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What a model is built for, and a run records of its data."""

    image_shape: tuple[int, int, int]  # height, width and channels
    class_names: tuple[str, ...] = ()  # by label; empty where there are no labels


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three splits."""

    name: str
    train: Split
    validation: Split
    test: Split
    sha256: str  # hexadecimal, of the images and labels of all three splits, before binarization
    class_names: tuple[str, ...] = ()  # by label; empty where there are no labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def spec(self) -> DataSpec:
        """The images' shape and the classes."""
        return DataSpec(self.image_shape, self.class_names)


def sha256_of(*splits: Split) -> str:
    """Returns the hexadecimal SHA-256 of the splits' images and labels, in the given order.

    The shapes are hashed too, so that moving images from one split to the next is a change. Gray
    images are hashed as `[n, height, width]`: what runs have recorded of their data stays true.
    """
    digest = hashlib.sha256()
    for split in splits:
        images = split.images[..., 0] if split.images.shape[-1] == 1 else split.images
        for array in (images, split.labels):
            if array is None:
                digest.update(b"no labels")
                continue
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
