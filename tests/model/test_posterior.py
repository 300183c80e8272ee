"""Posteriors: their noise, exact densities and KLs, against SciPy, integrals and float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import ClosedFormPrior, GaussianMixture, StandardNormal

RANDOM = np.random.default_rng(0)
MEAN, LOG_VAR = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
POSTERIOR = Posterior(MEAN, LOG_VAR)
KEYS = jax.random.split(jax.random.key(7), 3)


def sample_of(posterior, key, *arguments, **options):
    """A sample, compiled as one program, as in all other code."""
    draw = functools.partial(Posterior.sample, **options)
    return jax.jit(draw, static_argnums=2)(posterior, key, *arguments)


def log_density_in_float64(noise, log_var):
    """log q of the sample that this noise makes."""
    density = scipy.stats.norm.logpdf(np.asarray(noise, np.float64))
    return (density - 0.5 * np.asarray(log_var, np.float64)).sum(-1)


@pytest.mark.parametrize("has_keys", [False, True])
@pytest.mark.parametrize(("num_samples", "leading"), [(None, ()), (6, (6,))])
def test_one_key_draws_the_noise_of_all_images_or_each_key_that_of_its_image(
    num_samples, leading, has_keys
):
    sample = sample_of(POSTERIOR, KEYS if has_keys else KEYS[0], num_samples)
    if has_keys:
        noise = np.stack([jax.random.normal(key, (*leading, 4)) for key in KEYS], axis=-2)
    else:
        noise = jax.random.normal(KEYS[0], (*leading, 3, 4))
    expected = MEAN + np.exp(0.5 * LOG_VAR) * noise
    np.testing.assert_allclose(sample.latents, expected, rtol=1e-5, atol=1e-6)
    expected = log_density_in_float64(noise, LOG_VAR)
    np.testing.assert_allclose(sample.log_density, expected, rtol=1e-5)
    if num_samples == 6:
        assert sample[2].latents.shape == (3, 4)
        np.testing.assert_array_equal(sample[2].log_density, sample.log_density[2])
        assert sample[:, None].log_density.shape == (6, 1, 3)


def test_the_log_density_of_latents_of_others():
    latents = RANDOM.normal(size=(5, 3, 4)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(latents, MEAN, np.exp(0.5 * np.float64(LOG_VAR))).sum(-1)
    np.testing.assert_allclose(POSTERIOR.log_density(latents), expected, rtol=1e-5)
    # Nothing overflows at the smallest variance, on the mean itself or off it.
    narrow = Posterior(np.zeros((2, 1), np.float32), np.full((2, 1), -80.0, np.float32))
    at, off = narrow.log_density(np.float32([[0.0], [1.0]]))
    assert at == pytest.approx(40.0 - 0.5 * np.log(2.0 * np.pi))
    assert off == pytest.approx(-0.5 * np.exp(80.0), rel=1e-4)


@pytest.mark.parametrize("path_gradient", [False, True])
@pytest.mark.parametrize("log_var", [-80.0, 3.0])
def test_the_log_density_is_exact_where_samples_are_rounded(log_var, path_gradient):
    mean, log_var = np.full((5, 4), 100.0, np.float32), np.full((5, 4), log_var, np.float32)
    key = jax.random.key(11)
    sample = sample_of(Posterior(mean, log_var), key, 50, path_gradient=path_gradient)
    expected = log_density_in_float64(jax.random.normal(key, (50, 5, 4)), log_var)
    np.testing.assert_allclose(sample.log_density, expected, rtol=1e-6, atol=1e-5)
    if log_var.max() < 0.0:
        # The density at the rounded sample would be wrong.
        z = np.asarray(sample.latents, np.float64)
        rounded = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * np.float64(log_var))).sum(-1)
        assert np.abs(rounded - expected).max() > 1.0


def test_gradients_of_the_log_density_pass_through_noise_or_through_the_sample_alone():
    key = jax.random.key(5)
    noise = np.asarray(jax.random.normal(key, (3, 4)))

    def gradient(path_gradient):
        def total(posterior):
            return posterior.sample(key, path_gradient=path_gradient).log_density.sum()

        return jax.grad(total)(jax.tree.map(jnp.asarray, POSTERIOR))

    # log q of the sample is -e^2 / 2 - log s: the noise e stays as it is.
    plain = gradient(False)
    np.testing.assert_array_equal(plain.mean, 0.0)
    np.testing.assert_allclose(plain.log_var, -0.5, rtol=1e-6)
    # d log q / dz = -e / s, times dz / dm = 1 and dz / d log s^2 = s e / 2.
    path = gradient(True)
    np.testing.assert_allclose(path.mean, -noise / np.exp(0.5 * LOG_VAR), rtol=1e-5)
    np.testing.assert_allclose(path.log_var, -0.5 * noise**2, rtol=1e-5)


def kl_by_quadrature(log_density):
    """The KL of `POSTERIOR` from independent dimensions of this log-density, in float64."""

    def kl(mean, deviation):
        q = scipy.stats.norm(mean, deviation)
        integrand = lambda x: q.pdf(x) * (q.logpdf(x) - log_density(x))  # noqa: E731
        return scipy.integrate.quad(integrand, mean - 12 * deviation, mean + 12 * deviation)[0]

    return np.vectorize(kl)(np.float64(MEAN), np.exp(0.5 * np.float64(LOG_VAR)))


def test_the_kl_in_closed_form_does_not_look_at_the_sample():
    prior = StandardNormal(4)
    assert isinstance(prior, ClosedFormPrior)
    found = [POSTERIOR.kl(prior, sample_of(POSTERIOR, key)) for key in KEYS[:2]]
    np.testing.assert_array_equal(*found)
    expected = kl_by_quadrature(scipy.stats.norm.logpdf)
    np.testing.assert_allclose(found[0], expected.sum(1), rtol=1e-5)
    np.testing.assert_allclose(POSTERIOR.kl_per_dimension(prior), expected, rtol=1e-4)


@pytest.mark.slow
def test_without_a_closed_form_the_kl_is_that_of_the_sample():
    params = {
        "mean": np.float32([[-1.0], [2.0]]),
        "log_var": np.float32([[0.5], [-1.0]]),
        "logits": np.float32([0.3, -0.2]),
    }
    prior = GaussianMixture(1, 2).bind({"params": params})
    # In one dimension, where quadrature is possible.
    posterior = Posterior(MEAN[:, :1], LOG_VAR[:, :1])
    components = scipy.stats.norm([-1.0, 2.0], np.exp([0.25, -0.5]))
    weights = scipy.special.softmax(np.float64(params["logits"]))
    expected = kl_by_quadrature(lambda x: np.log(components.pdf(x) @ weights))[:, 0]
    samples = sample_of(posterior, KEYS[0], 50_000)
    kl = jax.lax.map(lambda one: posterior.kl(prior, one), samples, batch_size=5000)
    kl = np.asarray(kl, np.float64)
    error = kl.std(0) / np.sqrt(len(kl))
    assert np.all(np.abs(kl.mean(0) - expected) < 4.0 * error)
    assert error.max() < 0.05
    with pytest.raises(ValueError, match="no closed form"):
        posterior.kl_per_dimension(prior)


def test_the_aggregate_variance_is_in_double_precision():
    # Far from 0, and many: in single precision the small variance of the means is lost.
    means = (1000.0 + RANDOM.normal(scale=0.01, size=(200_000, 2))).astype(np.float32)
    log_vars = RANDOM.normal(loc=-9.0, size=means.shape).astype(np.float32)
    variance = Posterior(means, log_vars).aggregate_variance()
    expected = np.float64(means).var(0) + np.exp(np.float64(log_vars)).mean(0)
    np.testing.assert_allclose(variance, expected, rtol=1e-6)
