"""Measures of a latent space, on latents of which they are known."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from vae_jax.evaluation import latent_statistics
from vae_jax.evaluation.measuring import NotMeasured
from vae_jax.model import distributions
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import StandardNormal

RANDOM = np.random.default_rng(0)


def test_a_unit_is_active_if_its_mean_varies():
    mean = RANDOM.normal(size=(5000, 3)) * np.sqrt([0.02, 0.005, 0.0]) + [0.0, 5.0, 5.0]
    assert latent_statistics.active_units(mean.astype(np.float32)) == 1


def test_kl_per_dimension_is_the_integral_and_sums_to_the_loss():
    mean = np.array([[0.5, 0.0], [-1.0, 0.0]], np.float32)
    log_var = np.array([[0.3, 0.0], [-0.7, 0.0]], np.float32)
    kl = latent_statistics.kl_per_dimension(StandardNormal(2), Posterior(mean, log_var))

    def integrated(mean, log_var):
        q, p = scipy.stats.norm(mean, np.exp(log_var / 2)), scipy.stats.norm()
        return scipy.integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -9, 9)[0]

    expected = np.mean([integrated(mean[i, 0], log_var[i, 0]) for i in range(2)])
    np.testing.assert_allclose(kl, [expected, 0.0], rtol=1e-5, atol=1e-7)
    total = float(distributions.gaussian_kl(mean, log_var).mean())
    assert sum(kl) == pytest.approx(total, rel=1e-5)


def test_the_aggregate_posterior_of_the_prior_is_standard():
    # Means of variance 1 - s^2 and variances s^2 make N(0, 1); a unit that is off shows.
    scale = np.array([0.3, 0.9, 0.3])
    mean = RANDOM.normal(size=(20_000, 3)) * np.sqrt(1 - scale**2) + [0.0, 0.0, 2.0]
    log_var = np.broadcast_to(2 * np.log(scale), mean.shape)
    aggregate_mean, variance = Posterior(mean, log_var).aggregate_moments()
    np.testing.assert_allclose(aggregate_mean, [0.0, 0.0, 2.0], atol=0.03)
    np.testing.assert_allclose(variance, 1.0, atol=0.03)


def test_a_posterior_that_says_nothing_is_collapsed():
    assert not latent_statistics.is_collapsed(20, 64)
    assert latent_statistics.is_collapsed(6, 64)
    assert not latent_statistics.is_collapsed(1, 2)
    assert latent_statistics.is_collapsed(0, 2)


def test_the_probe_reads_what_is_linear_and_nothing_else():
    labels = RANDOM.integers(0, 10, 3000)
    directions = RANDOM.normal(size=(10, 6))
    told = 3 * directions[labels] + 0.1 * RANDOM.normal(size=(3000, 6))
    noise = RANDOM.normal(size=(3000, 6))
    train, test = slice(0, 2000), slice(2000, None)
    for features, low, high in ((told, 0.98, 1.0), (noise, 0.05, 0.16)):
        accuracy = latent_statistics.linear_probe(
            features[train], labels[train], features[test], labels[test]
        )
        assert low <= accuracy <= high


def test_the_probe_of_few_images_a_class_is_not_measured(recwarn):
    latents, labels = RANDOM.normal(size=(20, 3)), np.arange(20) % 11
    with pytest.raises(NotMeasured, match="20 training images are too few for 11 classes"):
        latent_statistics.linear_probe(latents, labels, latents, labels)
    # Test images that are all of different classes are no regression either.
    latent_statistics.linear_probe(latents, np.arange(20) % 4, latents[:4], np.arange(4))
    assert not recwarn.list


@pytest.mark.parametrize("latent_size", [1, 2, 5])
def test_maps_have_two_dimensions_and_repeat(latent_size):
    points = RANDOM.normal(size=(150, latent_size)).astype(np.float32)
    for make_map in (latent_statistics.pca_map, latent_statistics.tsne_map):
        first = make_map(points)
        assert first.shape == (150, 2)
        np.testing.assert_array_equal(first, make_map(points))
