"""Gaussians and losses against SciPy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vae_jax.model import distributions, losses

RNG = np.random.RandomState(0)
MEAN, LOG_VAR, X = RNG.normal(size=(3, 3, 4)).astype(np.float32)


def test_gaussian_kl_is_zero_at_the_prior_and_precise_near_it():
    zeros = jnp.zeros((2, 1))
    np.testing.assert_array_equal(distributions.gaussian_kl(zeros, zeros), 0)
    actual = distributions.gaussian_kl(zeros, zeros + 1e-3)
    np.testing.assert_allclose(actual, 0.5 * (np.expm1(1e-3) - 1e-3), rtol=1e-3)


def test_gaussian_log_density_equals_scipy():
    expected = scipy.stats.norm.logpdf(X, MEAN, np.exp(0.5 * np.float64(LOG_VAR))).sum(1)
    actual = distributions.gaussian_log_density(X, MEAN, LOG_VAR)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("log_var", [-50.0, 50.0])
@pytest.mark.parametrize(
    "function",
    [
        distributions.gaussian_kl,
        lambda mean, log_var: distributions.gaussian_log_density(X, mean, log_var),
        lambda mean, log_var: distributions.sample_gaussian(jax.random.key(0), mean, log_var),
    ],
)
def test_finite_values_and_gradients_at_extreme_log_variances(function, log_var):
    value_and_gradients = jax.value_and_grad(lambda *args: function(*args).sum(), (0, 1))
    value, gradients = jax.jit(value_and_gradients)(MEAN, np.full((3, 4), log_var, np.float32))
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def free_bits_of(mean, log_var):
    return losses.free_bits_kl(distributions.gaussian_kl_per_dimension(mean, log_var), 0.5)


def test_free_bits_by_hand():
    kl = np.float32([[1.0, 0.0, 3.0], [2.0, 0.5, 5.0]])  # on average 1.5, 0.25 and 4
    for free_bits, expected in ((0.0, 5.75), (0.5, 6.0), (2.0, 8.0)):
        assert losses.free_bits_kl(kl, free_bits) == pytest.approx(expected, rel=1e-6)
    gradient = jax.grad(lambda mean: free_bits_of(mean, jnp.zeros((6, 3))))
    np.testing.assert_array_equal(gradient(jnp.full((6, 3), 0.1)), 0.0)
    assert np.all(np.asarray(gradient(jnp.full((6, 3), 3.0))) > 0)
