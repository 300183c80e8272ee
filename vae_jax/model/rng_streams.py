"""Named streams of random keys: each kind of randomness in a run has its own.

A stream is a fixed number folded into the root key, which the seed makes; within a stream the
epoch, the step or the image's index is folded in, so any step can be computed again.
"""

import enum

import jax
import numpy as np


class Stream(enum.IntEnum):
    """Purpose of a key. The numbers are part of a run's result: never change or reuse one."""

    PARAMETERS = 0  # initialization
    DATA_ORDER = 1  # by epoch
    POSTERIOR = 2  # by training step
    DROPOUT = 3  # by training step
    BINARIZATION = 4  # by training step
    EVALUATION = 5  # by image index
    PRIOR_SAMPLES = 6  # plots and sample mode
    MEASURED_SAMPLES = 7  # samples whose quality is measured
    IMPORTANCE = 8  # by image index, then by sample
    PIXELS = 9  # drawn in sample mode, by image index
    PRIOR_FIT = 10  # a prior fitted afterwards, by epoch, then by step
    PRIOR_FIT_PIXELS = 11  # by epoch, then by image index
    IMPORTANCE_PRIOR = 12  # by image index, then by sample


def make_root_key(seed: int | jax.Array | np.ndarray) -> jax.Array:
    """Makes the root key of a seed; its generator is part of a run's result, so it is named."""
    if isinstance(seed, int):
        seed = jax.device_put(np.uint32(seed))
    return jax.random.key(seed, impl="threefry2x32")


def stream_key(root_key: jax.Array, stream: Stream, index: int | jax.Array = 0) -> jax.Array:
    """Derives the key of a stream for an epoch, a step or an image's index."""
    return jax.random.fold_in(jax.random.fold_in(root_key, stream.value), index)
