"""Many rows through a compiled function, a batch at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from vae_jax.runtime import devices


def map_batches(function: Callable[..., Any], batch_size: int, *inputs: Any) -> Any:
    """Applies a function to batches of rows and concatenates its results.

    Returns:
      A tree of NumPy arrays with as many rows as the inputs of `iterate_batches`.
    """
    pieces = iterate_batches(function, batch_size, *inputs)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def iterate_batches(function: Callable[..., Any], batch_size: int, *inputs: Any) -> Iterator[Any]:
    """Applies a function to batches of rows and yields the result of each.

    The last batch is padded to the batch size, so that one compiled program serves all. While the
    host reads a result, the device computes the next.

    Args:
      function: from a batch of each input to a tree of arrays with as many rows.
      batch_size: rows per call.
      *inputs: arrays `[n, ...]`, or structs that can be sliced.

    Yields:
      Trees of NumPy arrays with at most `batch_size` rows.
    """
    num_rows, start, running = len(inputs[0]), 0, None
    for start in range(0, max(num_rows, 1), batch_size):
        batch = [pad_rows(rows[start : start + batch_size], batch_size) for rows in inputs]
        result = function(*devices.to_device(batch))
        if running is not None:
            yield devices.to_host(running)
        running = result
    yield jax.tree.map(lambda array: array[: num_rows - start], devices.to_host(running))


def pad_rows(tree: Any, num_rows: int) -> Any:
    """Pads the arrays of a tree with rows of zeros, to `[num_rows, ...]`."""
    return jax.tree.map(
        lambda array: np.pad(array, [(0, num_rows - len(array))] + [(0, 0)] * (array.ndim - 1)),
        tree,
    )
