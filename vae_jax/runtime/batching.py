"""Many rows through a compiled function, a batch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vae_jax.runtime import devices


def map_batches(function: Callable[..., Any], batch_size: int, *arrays: np.ndarray) -> Any:
    """Applies a function that maps rows one by one, and puts its results together.

    The last batch is filled up to the batch size, so that one compiled program serves all.

    Args:
      function: from a batch of each array to a tree of arrays with as many rows.
      batch_size: rows given to it at a time.
      *arrays: `[n, ...]` each, at least one row.

    Returns:
      A tree of NumPy arrays with n rows.
    """
    num_rows = len(arrays[0])
    pieces = [
        devices.to_host(
            function(
                *(
                    devices.to_device(pad_rows(array[start : start + batch_size], batch_size))
                    for array in arrays
                )
            )
        )
        for start in range(0, num_rows, batch_size)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_rows], *pieces)


def pad_rows(array: np.ndarray, num_rows: int) -> np.ndarray:
    """Fills up an array with rows of zeros, to `[num_rows, ...]`."""
    return np.pad(array, [(0, num_rows - len(array))] + [(0, 0)] * (array.ndim - 1))
