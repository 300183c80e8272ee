"""Many rows through a compiled function, a batch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vae_jax.runtime import devices


def map_batches(function: Callable[..., Any], batch_size: int, *inputs: Any) -> Any:
    """Applies a function to batches of rows and concatenates its results.

    The last batch is padded to the batch size, so that one compiled program serves all.

    Args:
      function: from a batch of each input to a tree of arrays with as many rows.
      batch_size: rows per call.
      *inputs: NumPy arrays `[n, ...]` with at least one row, or structs that can be sliced.

    Returns:
      A tree of NumPy arrays with n rows.
    """
    num_rows = len(inputs[0])
    pieces = [
        devices.to_host(
            function(
                *(
                    devices.to_device(pad_rows(rows[start : start + batch_size], batch_size))
                    for rows in inputs
                )
            )
        )
        for start in range(0, num_rows, batch_size)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_rows], *pieces)


def pad_rows(tree: Any, num_rows: int) -> Any:
    """Pads the arrays of a tree with rows of zeros, to `[num_rows, ...]`."""
    return jax.tree.map(
        lambda array: np.pad(array, [(0, num_rows - len(array))] + [(0, 0)] * (array.ndim - 1)),
        tree,
    )
