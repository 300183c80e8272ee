"""Measures of every image of a data set, computed in one pass when it is first loaded."""

import hashlib
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vae_jax.datasets import cache
from vae_jax.datasets.stored_images import StoredImages
from vae_jax.datasets.structs import Split

_BLOCK_BYTES = 16 << 20  # of images in memory at once
_SPLITS = ("train", "validation", "test")


def measure(splits: dict[str, Split]) -> tuple[str, np.ndarray]:
    """Measures the splits, a block of images at a time, with a progress bar if it takes long.

    The shapes are hashed too, so that moving images from one split to the next is a change. Gray
    images are hashed as `[n, height, width]`, as earlier runs recorded them.

    Returns:
      The SHA-256 of the images and labels of all splits, hexadecimal, and the mean of the training
      images, `<float64>[height, width, channels]`.
    """
    digest = hashlib.sha256()
    sums = np.zeros(splits["train"].images.shape[1:], np.uint64)
    total, is_quiet = sum(len(splits[name]) for name in _SPLITS), not sys.stderr.isatty()
    with tqdm(None, "checking images", total, unit=" images", delay=1, disable=is_quiet) as bar:
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


def measure_once(splits: dict[str, Split], cache_folder: Path) -> tuple[str, np.ndarray]:
    """Measures the splits; the measures of stored images are cached by their checksums."""
    identity = hashlib.sha256()
    for name in _SPLITS:
        images, labels = splits[name].images, splits[name].labels
        if not isinstance(images, StoredImages):
            return measure(splits)
        identity.update(f"{images.shape}".encode())
        identity.update(images.checksums.tobytes() + images.is_gray.tobytes())
        identity.update(b"no labels" if labels is None else labels.tobytes())
    key = identity.hexdigest()

    def make(scratch: Path) -> Path:
        (made := scratch / "measures").mkdir()
        sha256, train_mean = measure(splits)
        np.savez(made / "measures.npz", sha256=sha256, train_mean=train_mean)
        return made

    made = cache.make_once(cache_folder / f"measures-{key[:16]}", key, make)
    with np.load(made / "measures.npz") as arrays:
        return str(arrays["sha256"]), arrays["train_mean"]
