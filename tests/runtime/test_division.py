"""Tests of `vae_jax.runtime.division`."""

import pytest

from vae_jax.runtime import division


@pytest.mark.parametrize(
    ("num_cores", "num_replicas", "batch_size", "num_parameters", "divisible", "expected"),
    [
        (2, 1, 100, 1_000_000, (0, 0), (1, 2)),
        (2, 1, 100, 5_000_000, (0, 0), (1, 1)),  # adding so many gradients takes too long
        (2, 4, 100, 20_000_000, (0, 0), (2, 1)),  # replicas add none
        (2, 3, 100, 1_000_000, (0, 0), (1, 2)),
        (8, 1, 50, 1_000_000, (0, 0), (1, 2)),  # at least 25 images each
        (3, 1, 100, 1_000_000, (0, 0), (1, 2)),
        (2, 1, 99, 1_000_000, (0, 0), (1, 1)),
        (1, 4, 100, 1_000_000, (0, 0), (1, 1)),
        (2, 1, 100, 20_000_000, (25_000, 784), (1, 2)),  # few, but for those that are divided
        (2, 3, 100, 60_000_000, (25_000, 784), (1, 2)),
        (3, 1, 99, 20_000_000, (25_000, 784), (1, 1)),  # three do not divide the rows
    ],
)
def test_cores_divide_replicas_or_batches_of_small_models(
    num_cores, num_replicas, batch_size, num_parameters, divisible, expected
):
    arguments = num_cores, num_replicas, batch_size, num_parameters, divisible
    assert division.divide_cores(*arguments) == expected
