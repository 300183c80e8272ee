"""The structs of a data set."""

import dataclasses
from typing import NamedTuple

import numpy as np

from vae_jax.datasets.stored_images import Images, select


class DataOptions(NamedTuple):
    """A data set, how it is read and how it is split: `data` in `configs/default.py`."""

    name: str = "mnist"
    data_dir: str | None = None  # where data are cached; None for the folder of TensorFlow Datasets
    manual_dir: str | None = None  # holds the official files; None to download them
    path: str | None = None  # of "images", as the next five: a folder, an image, .npz or .npy
    image_size: tuple[int, ...] = ()  # height and width to bring images to; () to keep theirs
    channels: int = 0  # 1 or 3; 0 for 1 if all images are gray, else 3
    levels: int = 0  # values run from 0 to levels - 1; 0 for the range of their type
    skip_damaged: bool = False  # leave out image files that cannot be read
    test_size: int = 5_000  # images taken from the training images
    validation_size: int = 5_000  # images taken from the training images
    binarization: str = "none"  # or "dynamic"
    on_device: str = "auto"  # or "true" or "false": whether devices hold all training images


# eq=False: comparing arrays field by field has no single truth value.
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images, their labels and the names of their files, in the same order."""

    images: Images  # `<uint8>[n, height, width, channels]`, 1 channel (gray) or 3 (RGB)
    labels: np.ndarray | None  # `<int>[n]`, indices of classes from 0; None without labels
    names: np.ndarray | None = None  # `<str>[n]`, relative to the folder; None without files

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | np.ndarray) -> "Split":
        labels, names = (a if a is None else a[rows] for a in (self.labels, self.names))
        return Split(select(self.images, rows), labels, names)


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The properties of a data set that a model depends on and a run records."""

    image_shape: tuple[int, int, int]  # height, width and channels
    class_names: tuple[str, ...] = ()  # by label; empty without labels


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three splits."""

    name: str
    train: Split
    validation: Split
    test: Split
    sha256: str  # hexadecimal, of the images and labels of all three splits, before binarization
    train_mean: np.ndarray  # of the training images, `<float64>[height, width, channels]`
    class_names: tuple[str, ...] = ()  # by label; empty without labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def spec(self) -> DataSpec:
        """The images' shape and the classes."""
        return DataSpec(self.image_shape, self.class_names)
