"""Many rows in batches are what they are at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.model.structs import Batch
from vae_jax.runtime.batching import map_batches, pad_rows

ROWS = np.arange(14.0).reshape(7, 2)
NUMBERS = np.arange(7)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_the_results_are_those_of_all_rows_and_of_no_padding(batch_size):
    sizes = []

    def function(rows, numbers):
        sizes.append(len(rows))
        return {"sum": jnp.asarray(rows.sum(1) + numbers), "row": jnp.asarray(rows)}

    results = map_batches(function, batch_size, ROWS, NUMBERS)
    np.testing.assert_array_equal(results["sum"], ROWS.sum(1) + NUMBERS)
    np.testing.assert_array_equal(results["row"], ROWS)
    assert isinstance(results["row"], np.ndarray)
    assert set(sizes) == {batch_size}  # one size: one compiled program


@pytest.mark.parametrize("labels", [None, np.arange(7, dtype=np.int32)])
def test_structs_are_cut_and_filled_up_as_arrays_are(labels):
    def function(batch, numbers):
        assert len(batch) == len(numbers) == 3
        assert (batch.labels is None) == (labels is None)
        return Batch(batch.images + numbers[:, None], batch.labels)

    results = map_batches(function, 3, Batch(ROWS.astype(np.float32), labels), NUMBERS)
    np.testing.assert_array_equal(results.images, ROWS + NUMBERS[:, None])
    np.testing.assert_array_equal(results.labels, labels)
    assert isinstance(results.images, np.ndarray)
    padded = pad_rows(Batch(None, NUMBERS[:2]), 3)
    assert padded.images is None and padded.labels.tolist() == [0, 1, 0]
