"""Posteriors: their noise, exact densities and KLs, against SciPy, integrals and float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from vae_jax.model import distributions
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import ClosedFormPrior, GaussianMixture, StandardNormal

RANDOM = np.random.default_rng(0)
MEAN, LOG_VAR = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
POSTERIOR = Posterior(MEAN, LOG_VAR)
KEYS = jax.random.split(jax.random.key(7), 3)


def sample_of(posterior, key, *arguments, **options):
    """A sample, compiled as one program, as everything that draws one does."""
    draw = functools.partial(Posterior.sample, **options)
    return jax.jit(draw, static_argnums=2)(posterior, key, *arguments)


def log_density_in_float64(noise, log_var):
    """log q of the sample that this noise makes."""
    density = scipy.stats.norm.logpdf(np.asarray(noise, np.float64))
    return (density - 0.5 * np.asarray(log_var, np.float64)).sum(-1)


@pytest.mark.parametrize(("num_samples", "leading"), [(None, ()), (1, (1,)), (6, (6,))])
def test_one_key_draws_the_noise_of_all_images(num_samples, leading):
    key = jax.random.key(3)
    sample = sample_of(POSTERIOR, key, num_samples)
    assert sample.latents.shape == (*leading, 3, 4)
    assert sample.log_density.shape == (*leading, 3)
    noise = jax.random.normal(key, (*leading, 3, 4))
    np.testing.assert_allclose(
        sample.latents, MEAN + np.exp(0.5 * LOG_VAR) * noise, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        sample.log_density, log_density_in_float64(noise, LOG_VAR), rtol=1e-5
    )


@pytest.mark.parametrize(("num_samples", "leading"), [(None, ()), (1, (1,)), (6, (6,))])
def test_a_key_of_its_own_alone_decides_an_images_noise(num_samples, leading):
    sample = sample_of(POSTERIOR, KEYS, num_samples)
    noise = np.stack([jax.random.normal(key, (*leading, 4)) for key in KEYS], axis=-2)
    np.testing.assert_allclose(
        sample.latents, MEAN + np.exp(0.5 * LOG_VAR) * noise, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        sample.log_density, log_density_in_float64(noise, LOG_VAR), rtol=1e-5
    )
    # In another order, and without the first image.
    rows = np.array([2, 1])
    other = sample_of(Posterior(MEAN[rows], LOG_VAR[rows]), KEYS[rows], num_samples)
    np.testing.assert_allclose(other.latents, sample.latents[..., rows, :], rtol=1e-6)
    np.testing.assert_allclose(other.log_density, sample.log_density[..., rows], rtol=1e-6)


def test_samples_have_the_posterior_s_distribution():
    sample = sample_of(POSTERIOR, jax.random.key(0), 20_000)
    standardized = (sample.latents - MEAN) / np.exp(0.5 * LOG_VAR)
    assert scipy.stats.kstest(np.ravel(standardized), "norm").pvalue > 1e-3
    # Dimensions and images are independent.
    flat = np.asarray(standardized).reshape(len(standardized), -1)
    np.testing.assert_allclose(np.corrcoef(flat.T), np.eye(flat.shape[1]), atol=0.04)


def test_a_part_of_the_samples_has_its_own_log_density():
    sample = sample_of(POSTERIOR, jax.random.key(0), 5)
    one = sample[2]
    np.testing.assert_array_equal(one.latents, sample.latents[2])
    np.testing.assert_array_equal(one.log_density, sample.log_density[2])
    assert sample[:, None].log_density.shape == (5, 1, 3)


@pytest.mark.parametrize("leading", [(), (5,)])
def test_the_log_density_of_latents_that_others_made(leading):
    latents = RANDOM.normal(size=(*leading, 3, 4)).astype(np.float32)
    density = POSTERIOR.log_density(latents)
    assert density.shape == (*leading, 3)
    deviation = np.exp(0.5 * np.float64(LOG_VAR))
    expected = scipy.stats.norm.logpdf(latents, np.float64(MEAN), deviation).sum(-1)
    np.testing.assert_allclose(density, expected, rtol=1e-5)
    sample = sample_of(POSTERIOR, jax.random.key(1), 5)
    np.testing.assert_allclose(
        POSTERIOR.log_density(sample.latents), sample.log_density, rtol=1e-4, atol=1e-4
    )
    # Nothing overflows at the smallest variance, on the mean itself or off it.
    narrow = Posterior(np.zeros((2, 1), np.float32), np.full((2, 1), -80.0, np.float32))
    at, off = narrow.log_density(np.float32([[0.0], [1.0]]))
    assert at == pytest.approx(40.0 - 0.5 * np.log(2.0 * np.pi))
    assert off == pytest.approx(-0.5 * np.exp(80.0), rel=1e-4)


@pytest.mark.parametrize("path_gradient", [False, True])
@pytest.mark.parametrize("log_var", [-80.0, -40.0, -26.0, -8.0, 3.0])
def test_the_log_density_is_exact_where_samples_are_rounded(log_var, path_gradient):
    mean, log_var = np.full((5, 4), 100.0, np.float32), np.full((5, 4), log_var, np.float32)
    key = jax.random.key(11)
    sample = sample_of(Posterior(mean, log_var), key, 50, path_gradient=path_gradient)
    expected = log_density_in_float64(jax.random.normal(key, (50, 5, 4)), log_var)
    np.testing.assert_allclose(sample.log_density, expected, rtol=1e-6, atol=1e-5)
    if log_var.max() <= -26.0:
        # The density at the rounded sample is another one: here it would be wrong.
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


def test_gradients_through_samples_can_be_scaled():
    scale = RANDOM.uniform(size=(2, 3)).astype(np.float32)
    weights = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)

    def total(mean, gradient_scale):
        sample = Posterior(mean, LOG_VAR).sample(KEYS, 2, gradient_scale=gradient_scale)
        return (weights * sample.latents).sum()

    value, gradient = jax.value_and_grad(total)(MEAN, jnp.asarray(scale))
    np.testing.assert_allclose(gradient, (scale[..., None] * weights).sum(0), rtol=1e-5)
    np.testing.assert_allclose(value, total(MEAN, None), rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Logistic:
    """Independent logistic distributions: a prior without a closed form of its KL."""

    def log_density(self, latents):
        return jnp.sum(-latents - 2.0 * jax.nn.softplus(-latents), axis=-1)


def kl_by_quadrature(log_density):
    """The KL of `POSTERIOR` from independent dimensions of this log-density, in float64."""

    def integrand(x, mean, deviation):
        log_q = scipy.stats.norm.logpdf(x, mean, deviation)
        return np.exp(log_q) * (log_q - log_density(x))

    def kl(mean, deviation):
        limits = (mean - 12.0 * deviation, mean + 12.0 * deviation)
        return scipy.integrate.quad(integrand, *limits, args=(mean, deviation))[0]

    return np.vectorize(kl)(np.float64(MEAN), np.exp(0.5 * np.float64(LOG_VAR)))


def test_the_kl_in_closed_form_does_not_look_at_the_sample():
    prior = StandardNormal(4)
    assert isinstance(prior, ClosedFormPrior)
    samples = [sample_of(POSTERIOR, jax.random.key(seed)) for seed in (0, 1)]
    found = [POSTERIOR.kl(prior, sample) for sample in samples]
    np.testing.assert_array_equal(*found)
    expected = kl_by_quadrature(scipy.stats.norm.logpdf)
    np.testing.assert_allclose(found[0], expected.sum(1), rtol=1e-5)
    np.testing.assert_allclose(POSTERIOR.kl_per_dimension(prior), expected, rtol=1e-4)


def test_without_a_closed_form_the_kl_is_that_of_the_sample():
    prior = Logistic()
    assert not isinstance(prior, ClosedFormPrior)
    sample = sample_of(POSTERIOR, jax.random.key(0))
    noise = jax.random.normal(jax.random.key(0), (3, 4))
    z = np.asarray(sample.latents, np.float64)
    expected = log_density_in_float64(noise, LOG_VAR) - scipy.stats.logistic.logpdf(z).sum(1)
    np.testing.assert_allclose(POSTERIOR.kl(prior, sample), expected, rtol=1e-4, atol=1e-5)
    # On average over samples it is the divergence.
    samples = sample_of(POSTERIOR, jax.random.key(1), 50_000)
    kl = np.asarray(jax.jit(POSTERIOR.kl, static_argnums=0)(prior, samples), np.float64)
    error = kl.std(0) / np.sqrt(len(kl))
    expected = kl_by_quadrature(scipy.stats.logistic.logpdf).sum(1)
    assert np.all(np.abs(kl.mean(0) - expected) < 4.0 * error)
    assert error.max() < 0.05


def test_the_kl_from_a_prior_with_parameters_is_an_integral_on_average():
    params = {
        "mean": np.float32([[-1.0], [2.0]]),
        "log_var": np.float32([[0.5], [-1.0]]),
        "logits": np.float32([0.3, -0.2]),
    }
    weights = scipy.special.softmax(np.float64(params["logits"]))
    components = scipy.stats.norm(params["mean"][:, 0], np.exp(0.5 * params["log_var"][:, 0]))
    posterior = Posterior(MEAN[:, :1], LOG_VAR[:, :1])
    samples = sample_of(posterior, jax.random.key(2), 50_000)

    @jax.jit
    def kl_of(sample):
        return GaussianMixture(1, 2).apply(
            {"params": params}, method=lambda prior: posterior.kl(prior, sample)
        )

    kl = np.asarray(jax.lax.map(kl_of, samples, batch_size=5000), np.float64)
    expected = kl_by_quadrature(lambda x: np.log(components.pdf(x) @ weights))[:, 0]
    error = kl.std(0) / np.sqrt(len(kl))
    assert np.all(np.abs(kl.mean(0) - expected) < 4.0 * error)


def test_dimensions_have_no_kl_of_their_own_without_a_closed_form():
    with pytest.raises(ValueError, match="no closed form for each latent dimension"):
        POSTERIOR.kl_per_dimension(Logistic())


def test_moments_of_the_aggregate_are_those_of_samples_of_all_images():
    mean, variance = POSTERIOR.aggregate_moments()
    assert mean.dtype == variance.dtype == np.float64
    samples = np.asarray(sample_of(POSTERIOR, jax.random.key(0), 100_000).latents, np.float64)
    pooled = samples.reshape(-1, 4)
    np.testing.assert_allclose(mean, pooled.mean(0), atol=5.0 * pooled.std() / len(pooled) ** 0.5)
    np.testing.assert_allclose(variance, pooled.var(0), rtol=0.02)


def test_moments_of_the_aggregate_are_summed_in_double_precision():
    # Far from 0, and many: in single precision the small variance of the means is lost.
    mean = (1000.0 + RANDOM.normal(scale=0.01, size=(200_000, 2))).astype(np.float32)
    log_var = RANDOM.normal(loc=-9.0, size=mean.shape).astype(np.float32)
    found_mean, found_variance = Posterior(mean, log_var).aggregate_moments()
    exact = np.float64(mean)
    expected = exact.var(0) + np.exp(np.float64(log_var)).mean(0)
    np.testing.assert_allclose(found_mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found_variance, expected, rtol=1e-6)


def test_the_aggregate_of_the_prior_itself_has_its_moments():
    zeros = np.zeros((7, 2), np.float32)
    mean, variance = Posterior(zeros, zeros).aggregate_moments()
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_array_equal(variance, 1.0)


def test_files_have_the_arrays_by_name():
    arrays = POSTERIOR.to_arrays()
    assert list(arrays) == ["mean", "log_var"]
    np.testing.assert_array_equal(arrays["mean"], MEAN)
    np.testing.assert_array_equal(arrays["log_var"], LOG_VAR)


def test_densities_and_noise_are_those_of_the_pure_functions():
    sample = sample_of(POSTERIOR, jax.random.key(3))
    expected = distributions.gaussian_log_density(sample.latents, MEAN, LOG_VAR)
    np.testing.assert_allclose(sample.log_density, expected, rtol=1e-4)
    drawn = distributions.sample_gaussian(jax.random.key(3), MEAN, LOG_VAR)
    np.testing.assert_allclose(sample.latents, drawn, rtol=1e-5, atol=1e-6)
