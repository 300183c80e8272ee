"""Measures of every image of a data set, computed in one pass when it is loaded."""

import dataclasses
import hashlib
import sys
import zlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vae_jax.datasets import cache
from vae_jax.datasets.stored_images import StoredImages
from vae_jax.datasets.structs import Split

_BLOCK_BYTES = 16 << 20  # of images in memory at once
_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class DataMeasures:
    """Measures of the three splits.

    Attributes:
      sha256: hexadecimal, of the images and labels of all splits.
      train_mean: of the training images, `<float64>[height, width, channels]`.
      checksums: CRC-32 of each stored image that lacks it, in the order of "train", "validation"
        and "test", `<uint32>[n]`.
    """

    sha256: str
    train_mean: np.ndarray
    checksums: np.ndarray


def measure(splits: dict[str, Split]) -> DataMeasures:
    """Measures the splits, a block of images at a time, with a progress bar if it takes long.

    The shapes are hashed too, so that moving images from one split to the next is a change. Gray
    images are hashed as `[n, height, width]`, as earlier runs recorded them.
    """
    digest, checksums = hashlib.sha256(), []
    sums = np.zeros(splits["train"].images.shape[1:], np.uint64)
    total, is_quiet = sum(len(splits[name]) for name in _SPLITS), not sys.stderr.isatty()
    bar = tqdm(None, "checking images", total, unit=" images", delay=1, disable=is_quiet)
    with bar:
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
                if isinstance(images, StoredImages) and images.checksums is None:
                    checksums += map(zlib.crc32, pixels)
                bar.update(len(pixels))
            if labels is None:
                digest.update(b"no labels")
            else:
                digest.update(f"{labels.dtype}{labels.shape}".encode())
                digest.update(np.ascontiguousarray(labels).data)
    mean = sums / len(splits["train"])
    return DataMeasures(digest.hexdigest(), mean, np.array(checksums, np.uint32))


def measure_once(splits: dict[str, Split], cache_folder: Path) -> DataMeasures:
    """Measures the splits; the measures of stored images are cached until these change."""
    if not all(isinstance(splits[name].images, StoredImages) for name in _SPLITS):
        return measure(splits)
    identity = hashlib.sha256()
    for name in _SPLITS:
        images, labels = splits[name].images, splits[name].labels
        assert isinstance(images, StoredImages)
        identity.update(f"{images.path}\n{images.key}\n{images.shape}".encode())
        identity.update(images.offsets.tobytes())
        identity.update(b"no labels" if labels is None else labels.tobytes())
    key = identity.hexdigest()

    def make(scratch: Path) -> Path:
        made, measures = scratch / "measures", measure(splits)
        made.mkdir()
        np.savez(made / "measures.npz", **dataclasses.asdict(measures))
        return made

    def read(made: Path) -> DataMeasures:
        with np.load(made / "measures.npz") as arrays:
            return DataMeasures(str(arrays["sha256"]), arrays["train_mean"], arrays["checksums"])

    return cache.read_or_make(cache_folder / f"measures-{key[:16]}", key, make, read)
