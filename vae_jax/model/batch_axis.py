"""Batches that several devices divide: noise of the complete batch, means and sums over it.

Where `jax.shard_map` divides no batch, these functions draw and return their arguments plainly.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.flatten_util import ravel_pytree

from vae_jax.runtime.devices import DATA_AXIS

Tree = TypeVar("Tree")

_MAX_SMALL = 20_000  # numbers of an array that is averaged with others


def _num_parts() -> int:
    """Counts the devices that divide the batch; 1 outside of `jax.shard_map`."""
    try:
        return jax.lax.axis_size(DATA_AXIS)
    except NameError:  # no such axis
        return 1


def own_rows(rows: jax.Array, axis: int = 0) -> jax.Array:
    """Takes this device's part of a complete batch, whose axis is `axis`."""
    if (parts := _num_parts()) == 1:
        return rows
    size = rows.shape[axis] // parts
    start = jax.lax.axis_index(DATA_AXIS) * size
    return jax.lax.dynamic_slice_in_dim(rows, start, size, axis)


def draw(
    sampler: Callable[[jax.Array, tuple[int, ...]], jax.Array],
    key: jax.Array,
    shape: tuple[int, ...],
    axis: int = 0,
) -> jax.Array:
    """Draws `shape` for this device's images, whose axis is `axis`, as one device would.

    Every device draws for the complete batch with the same key, and takes its own part.
    """
    complete = (*shape[:axis], shape[axis] * _num_parts(), *shape[axis + 1 :])
    return own_rows(sampler(key, complete), axis)


def mean(tree: Tree) -> Tree:
    """Averages each device's arrays over the devices that divide the batch."""
    if _num_parts() == 1:
        return tree
    # Devices wait for each other at each array: the small ones are averaged as one.
    leaves, structure = jax.tree.flatten(tree)
    small, unravel = ravel_pytree([leaf for leaf in leaves if leaf.size <= _MAX_SMALL])
    averages = iter(unravel(jax.lax.pmean(small, DATA_AXIS)))
    return structure.unflatten(
        next(averages) if leaf.size <= _MAX_SMALL else jax.lax.pmean(leaf, DATA_AXIS)
        for leaf in leaves
    )


def total(tree: Tree) -> Tree:
    """Adds each device's arrays over the devices that divide the batch."""
    return jax.lax.psum(tree, DATA_AXIS) if _num_parts() > 1 else tree
