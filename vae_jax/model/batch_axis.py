"""Batches that several devices divide: noise of the complete batch, means and sums over it.

Where `jax.shard_map` divides no batch, these functions draw and return their arguments plainly.
"""

from collections.abc import Callable
from typing import Any, TypeVar

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


def own_columns(x: jax.Array) -> jax.Array:
    """Exchanges rows of a complete batch, of which each device has some, for columns.

    Takes `<float>[rows / devices, columns]`, returns `<float>[rows, columns / devices]`.
    """
    return jax.lax.all_to_all(x, DATA_AXIS, split_axis=1, concat_axis=0, tiled=True)


def add_to_own_rows(x: jax.Array) -> jax.Array:
    """Adds arrays `<float>[rows, columns]` over devices; each gets its `[rows / devices, columns]`.

    The rows are those of `own_columns`.
    """
    return jax.lax.psum_scatter(x, DATA_AXIS, tiled=True)


def part_of_mean(mean: jax.Array) -> jax.Array:
    """Scales the mean over this device's images; the devices' add up to that over the batch."""
    return mean / _num_parts()


def mean(tree: Tree) -> Tree:
    """Averages each device's arrays over the devices that divide the batch."""
    return jax.lax.pmean(tree, DATA_AXIS) if _num_parts() > 1 else tree


def total(tree: Tree, where: Callable[[Any], bool] = lambda path: True) -> Tree:
    """Adds each device's arrays, whose path in the tree fulfills a condition, over the devices."""
    if _num_parts() == 1:
        return tree
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # Devices wait for each other at each array: the small ones are added as one.
    small = [leaf for path, leaf in leaves if where(path) and leaf.size <= _MAX_SMALL]
    flat, unravel = ravel_pytree(small)
    sums = iter(unravel(jax.lax.psum(flat, DATA_AXIS)))

    def add(path: Any, leaf: jax.Array) -> jax.Array:
        if not where(path):
            return leaf
        return next(sums) if leaf.size <= _MAX_SMALL else jax.lax.psum(leaf, DATA_AXIS)

    return jax.tree_util.tree_map_with_path(add, tree)
