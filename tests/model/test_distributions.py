"""The pure functions against SciPy, quadrature and numerical gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from vae_jax.model import distributions

RNG = np.random.RandomState(0)
MEAN = RNG.normal(size=(3, 4)).astype(np.float32)
LOG_VAR = RNG.normal(size=(3, 4)).astype(np.float32)


def test_gaussian_kl_equals_quadrature():
    def integrand(x, mean, deviation):
        density = scipy.stats.norm.pdf(x, mean, deviation)
        return density * (scipy.stats.norm.logpdf(x, mean, deviation) - scipy.stats.norm.logpdf(x))

    expected = np.zeros(len(MEAN))
    for row, (means, log_vars) in enumerate(zip(MEAN, LOG_VAR, strict=True)):
        for mean, deviation in zip(means, np.exp(0.5 * log_vars), strict=True):
            limits = (mean - 12 * deviation, mean + 12 * deviation)
            expected[row] += scipy.integrate.quad(integrand, *limits, args=(mean, deviation))[0]
    actual = distributions.gaussian_kl(MEAN, LOG_VAR)
    assert actual.shape == (3,)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_kl_of_each_dimension_sums_to_the_whole():
    each = distributions.gaussian_kl_per_dimension(MEAN, LOG_VAR)
    assert each.shape == MEAN.shape
    np.testing.assert_allclose(each.sum(1), distributions.gaussian_kl(MEAN, LOG_VAR), rtol=1e-6)
    alone = distributions.gaussian_kl(MEAN[:, 1:2], LOG_VAR[:, 1:2])
    np.testing.assert_allclose(each[:, 1], alone, rtol=1e-6)


def test_gaussian_kl_is_zero_at_the_prior_and_precise_near_it():
    np.testing.assert_array_equal(
        distributions.gaussian_kl(jnp.zeros((2, 3)), jnp.zeros((2, 3))), 0
    )
    log_var = 1e-3  # 1/2 (expm1(t) - t) = t^2 / 4 + ...
    actual = distributions.gaussian_kl(jnp.zeros((1, 1)), jnp.full((1, 1), log_var))
    np.testing.assert_allclose(actual, 0.5 * (np.expm1(log_var) - log_var), rtol=1e-3)


def test_gaussian_log_density_equals_scipy():
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(x, MEAN, np.exp(0.5 * LOG_VAR.astype(np.float64))).sum(1)
    actual = distributions.gaussian_log_density(x, MEAN, LOG_VAR)
    assert actual.shape == (3,)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_kl_is_the_mean_of_the_log_density_ratio():
    # A second derivation: KL(q || p) = E_q[log q - log p], over many samples.
    mean, log_var = MEAN[:1], LOG_VAR[:1]
    samples = distributions.sample_gaussian(
        jax.random.key(0), *(jnp.tile(value, (200_000, 1)) for value in (mean, log_var))
    )
    ratios = distributions.gaussian_log_density(samples, mean, log_var)
    ratios -= distributions.gaussian_log_density(samples, jnp.zeros(4), jnp.zeros(4))
    error = np.std(ratios) / np.sqrt(len(ratios))
    np.testing.assert_allclose(
        np.mean(ratios), distributions.gaussian_kl(mean, log_var)[0], atol=5 * error
    )


@pytest.mark.parametrize("log_var", [-50.0, 50.0])
@pytest.mark.parametrize(
    "function",
    [
        distributions.gaussian_kl,
        lambda mean, log_var: distributions.gaussian_log_density(mean + 1.0, mean, log_var),
        lambda mean, log_var: distributions.gaussian_log_density(jnp.ones(4), mean, log_var),
        lambda mean, log_var: distributions.sample_gaussian(jax.random.key(0), mean, log_var),
    ],
)
def test_finite_values_and_gradients_at_extreme_log_variances(function, log_var):
    value, gradients = jax.value_and_grad(lambda *args: function(*args).sum(), (0, 1))(
        jnp.array(MEAN), jnp.full((3, 4), log_var)
    )
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_gradients_equal_numerical_ones():
    with jax.enable_x64(True):
        mean, log_var, x = (RNG.normal(size=(2, 3)) for _ in range(3))
        key = jax.random.key(1)
        cases = [
            (distributions.gaussian_kl, (mean, log_var)),
            (distributions.gaussian_log_density, (x, mean, log_var)),
            (lambda *args: distributions.sample_gaussian(key, *args), (mean, log_var)),
        ]
        for function, arguments in cases:
            check_grads(function, arguments, order=2, modes=["rev"])


def test_sample_gaussian_has_the_mean_and_variance_asked_for():
    mean, log_var = jnp.array([1.0, -2.0]), jnp.array([0.0, 1.5])
    shape = (100_000, 2)
    samples = distributions.sample_gaussian(
        jax.random.key(0), jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_var, shape)
    )
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(samples.var(0), np.exp(log_var), rtol=0.03)
    _, p_value = scipy.stats.kstest((samples[:, 1] + 2.0) / np.exp(0.75), "norm")
    assert p_value > 1e-3


def test_sample_gaussian_depends_on_the_key_alone():
    same = [distributions.sample_gaussian(jax.random.key(3), MEAN, LOG_VAR) for _ in range(2)]
    other = distributions.sample_gaussian(jax.random.key(4), MEAN, LOG_VAR)
    np.testing.assert_array_equal(*same)
    assert not np.any(same[0] == other)


@pytest.mark.parametrize("log_var", [-40.0, 0.0])
def test_the_density_of_a_sample_is_right_where_the_sample_is_rounded(log_var):
    noise = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    actual = distributions.gaussian_log_density_of_noise(noise, jnp.full((5, 4), log_var))
    expected = scipy.stats.norm.logpdf(noise.astype(np.float64)).sum(1) - 4 * log_var / 2
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
