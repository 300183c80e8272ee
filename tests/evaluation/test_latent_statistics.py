"""Measures of a latent space, on latents of which they are known, and on degenerate input."""

import numpy as np
import pytest

from vae_jax.evaluation import latent_statistics
from vae_jax.evaluation.measures import try_measure
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import StandardNormal

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(150, 3)).astype(np.float32)
EQUAL = np.full_like(POINTS, 5.0)
MAPS = (latent_statistics.pca_map, latent_statistics.tsne_map)


def test_a_unit_is_active_if_its_mean_varies():
    mean = RANDOM.normal(size=(5000, 3)) * np.sqrt([0.02, 0.005, 0.0]) + [0.0, 5.0, 5.0]
    assert latent_statistics.active_units(mean.astype(np.float32)) == 1


def test_the_probe_reads_linear_features_and_nothing_else():
    labels = RANDOM.integers(0, 10, 3000)
    linear = 3 * RANDOM.normal(size=(10, 6))[labels] + 0.1 * RANDOM.normal(size=(3000, 6))
    noise = RANDOM.normal(size=(3000, 6))
    train, test = slice(0, 2000), slice(2000, None)
    for features, low, high in ((linear, 0.98, 1.0), (noise, 0.05, 0.16)):
        accuracy = latent_statistics.linear_probe(
            features[train], labels[train], features[test], labels[test]
        )
        assert low <= accuracy <= high


def test_what_scikit_learn_refuses_is_not_measured(recwarn):
    labels = np.arange(150) % 3
    probe = latent_statistics.linear_probe
    assert probe(EQUAL, labels, EQUAL, labels) == pytest.approx(1 / 3)
    for classes in (0 * labels, np.arange(150) % 80):
        assert try_measure("probe", probe, POINTS, classes, POINTS, classes) is None
    assert try_measure("t-SNE", latent_statistics.tsne_map, POINTS[:30]) is None
    assert latent_statistics.pca_map(POINTS[:2]).shape == (2, 2)
    assert not recwarn.list


@pytest.mark.slow
@pytest.mark.parametrize("make_map", MAPS)
def test_maps_repeat_and_refuse_equal_latents(make_map):
    points = POINTS[:60]
    np.testing.assert_array_equal(make_map(points), make_map(points))
    for scale in (0.0, 1e-25, 1e25):
        with pytest.raises(ValueError, match="the latent means differ by"):
            make_map(points * np.float32(scale))


def test_numbers_that_are_not_finite_are_not_measured(capsys):
    log_var = np.where(np.arange(3) == 1, np.float32(1e30), POINTS)
    posterior = Posterior(POINTS, log_var)
    measures = latent_statistics.posterior_measures(StandardNormal(latent_size=3), posterior)
    assert (measures.active_units, measures.kl_per_dimension) == (3, None)
    assert capsys.readouterr().out == "kl_per_dimension is not measured: it is not finite\n"
