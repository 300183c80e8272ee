"""A batch: its pixels in either form, its labels beside them, its parts and copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.model.structs import Batch

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, size=(5, 4, 3, 1), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], np.int32)
BATCH = Batch(PIXELS, LABELS)


def assert_equal(batch, images, labels):
    np.testing.assert_array_equal(batch.images, images)
    np.testing.assert_array_equal(batch.labels, labels)


def test_pixels_become_intensities_and_floats_are_intensities_already():
    batch = jax.jit(Batch.to_intensities)(BATCH)
    assert batch.images.dtype == jnp.float32
    np.testing.assert_allclose(batch.images, PIXELS / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(batch.labels, LABELS)
    intensities = Batch(np.float32(PIXELS / 255.0), LABELS)
    assert intensities.to_intensities() is intensities
    with pytest.raises(TypeError, match="pixels are int32, must be uint8"):
        Batch(PIXELS.astype(np.int32)).to_intensities()


def test_binary_pixels_are_drawn_with_the_probability_of_their_intensity():
    intensities = np.float32([0.0, 0.2, 0.7, 1.0])
    batch = Batch(np.broadcast_to(intensities, (20_000, 1, 1, 4)), np.arange(20_000))
    drawn, again = (batch.binarize(jax.random.key(0)) for _ in range(2))
    assert set(np.unique(drawn.images)) == {0.0, 1.0}
    assert drawn.images.dtype == jnp.float32
    error = np.sqrt(intensities * (1.0 - intensities) / len(batch))
    assert np.all(np.abs(drawn.images.mean((0, 1, 2)) - intensities) <= 5.0 * error)
    assert_equal(drawn, again.images, batch.labels)
    assert np.any(batch.binarize(jax.random.key(1)).images != drawn.images)


def test_copies_of_a_batch_follow_one_another():
    copies = jax.jit(Batch.repeat, static_argnums=1)(BATCH, 3)
    assert_equal(copies, np.concatenate([PIXELS] * 3), np.tile(LABELS, 3))
    assert Batch().repeat(3).num_copies == 3
