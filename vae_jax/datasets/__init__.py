"""Data sets of images as NumPy arrays; libraries are imported when a data set needs them."""

from vae_jax.datasets.images import SPLIT_SEED
from vae_jax.datasets.images import read as read_images
from vae_jax.datasets.loading import EVALUATION_BINARIZATION_SEED, SOURCES, load
from vae_jax.datasets.stored_images import Images, StoredImages, concatenate
from vae_jax.datasets.structs import DataOptions, Dataset, DataSpec, Split

__all__ = [
    "EVALUATION_BINARIZATION_SEED",
    "SOURCES",
    "SPLIT_SEED",
    "DataOptions",
    "DataSpec",
    "Dataset",
    "Images",
    "Split",
    "StoredImages",
    "concatenate",
    "load",
    "read_images",
]
