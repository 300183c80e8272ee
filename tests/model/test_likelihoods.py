"""The likelihoods of pixels against SciPy and numerical gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from vae_jax.model.likelihoods import Bernoulli, to_intensities

RNG = np.random.RandomState(0)
BERNOULLI = Bernoulli()
EXTREMES = jnp.array([[-1e4, 1e4], [1e4, -1e4], [0.0, 1e4], [-1e4, 0.0]])


def test_bernoulli_equals_scipy_on_binary_pixels():
    logits = RNG.normal(scale=3.0, size=(5, 28, 28)).astype(np.float32)
    images = RNG.randint(0, 2, size=(5, 28, 28)).astype(np.float32)
    expected = scipy.stats.bernoulli.logpmf(images, scipy.special.expit(logits.astype(np.float64)))
    actual = BERNOULLI.log_prob(logits, images)
    assert actual.shape == (5,)
    np.testing.assert_allclose(actual, expected.sum((1, 2)), rtol=1e-5)


def test_bernoulli_is_cross_entropy_on_gray_pixels():
    logits = RNG.normal(size=(2, 9)).astype(np.float32)
    images = RNG.uniform(size=(2, 9)).astype(np.float32)
    p = scipy.special.expit(logits.astype(np.float64))
    expected = (images * np.log(p) + (1 - images) * np.log(1 - p)).sum(1)
    actual = BERNOULLI.log_prob(logits, images)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_bernoulli_keeps_precision_of_small_losses():
    # log sigmoid(30) = -9.4e-14, which 30 - softplus(30) would round to 0.
    actual = BERNOULLI.log_prob(jnp.array([[30.0]]), jnp.array([[1.0]]))
    np.testing.assert_allclose(actual, [-np.log1p(np.exp(-30.0))], rtol=1e-5)


def test_bernoulli_at_extreme_logits():
    images = jnp.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [1.0, 1.0]])
    value, gradient = jax.value_and_grad(lambda logits: BERNOULLI.log_prob(logits, images).sum())(
        EXTREMES
    )
    per_image = BERNOULLI.log_prob(EXTREMES, images)
    half = np.log(0.5)
    np.testing.assert_allclose(per_image, [0.0, -2e4, half - 5e3, half - 1e4], rtol=1e-6)
    assert np.isfinite(value)
    # d/dl = x - sigmoid(l)
    np.testing.assert_allclose(gradient, images - scipy.special.expit(EXTREMES), atol=1e-7)


def test_bernoulli_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 784\).*\(2, 28, 28\)"):
        BERNOULLI.log_prob(jnp.zeros((2, 784)), jnp.zeros((2, 28, 28)))


def test_bernoulli_gradients_equal_numerical_ones():
    with jax.enable_x64(True):
        arguments = (RNG.normal(size=(2, 5)), RNG.uniform(size=(2, 5)))
        check_grads(BERNOULLI.log_prob, arguments, order=2, modes=["rev"])


def test_bernoulli_samples_have_the_mean():
    outputs = jnp.array([-2.0, 0.0, 3.0])
    mean = BERNOULLI.mean(outputs)
    np.testing.assert_allclose(mean, scipy.special.expit(outputs), rtol=1e-6)
    samples = BERNOULLI.sample(jax.random.key(0), jnp.broadcast_to(outputs, (20_000, 3)))
    assert samples.dtype == outputs.dtype
    assert set(np.unique(samples)) == {0.0, 1.0}
    error = np.sqrt(mean * (1 - mean) / len(samples))
    assert np.all(np.abs(samples.mean(0) - mean) < 5 * error)


def test_bernoulli_outputs_have_the_mean_asked_for():
    means = np.array([0.0, 0.25, 0.5, 1.0])
    found = BERNOULLI.mean(BERNOULLI.outputs_with_mean(means))
    np.testing.assert_allclose(found, [0.001, 0.25, 0.5, 0.999], rtol=1e-4)


def test_bytes_become_intensities():
    images = np.array([[0, 51, 255]], np.uint8)
    intensities = to_intensities(jnp.asarray(images))
    assert intensities.dtype == jnp.float32
    np.testing.assert_allclose(intensities, [[0.0, 0.2, 1.0]], rtol=1e-6)
