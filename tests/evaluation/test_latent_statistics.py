"""Measures of a latent space, on latents of which they are known, and on degenerate input."""

import jax
import numpy as np
import pytest

from tests.support.common import small_vae
from vae_jax.evaluation import latent_statistics
from vae_jax.evaluation.measuring import Measurer, NotMeasured
from vae_jax.model.posterior import Posterior
from vae_jax.model.structs import Batch

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(150, 3)).astype(np.float32)
EQUAL = np.full_like(POINTS, 5.0)
MAPS = (latent_statistics.pca_map, latent_statistics.tsne_map)


def test_a_unit_is_active_if_its_mean_varies():
    mean = RANDOM.normal(size=(5000, 3)) * np.sqrt([0.02, 0.005, 0.0]) + [0.0, 5.0, 5.0]
    assert latent_statistics.active_units(mean.astype(np.float32)) == 1
    collapsed = [latent_statistics.is_collapsed(*n) for n in ((20, 64), (6, 64), (1, 2), (0, 2))]
    assert collapsed == [False, True, False, True]


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


def test_the_probe_needs_classes_and_images_but_no_variance(recwarn):
    probe, labels = latent_statistics.linear_probe, np.arange(150) % 3
    assert probe(EQUAL, labels, EQUAL, labels) == pytest.approx(1 / 3)
    probe(POINTS, labels, POINTS[:3], np.arange(3))  # a test set of one image a class
    for classes, reason in ((0 * labels, "one class"), (np.arange(150) % 80, "too few for 80")):
        with pytest.raises(NotMeasured, match=reason):
            probe(POINTS, classes, POINTS, classes)
    assert not recwarn.list


@pytest.mark.slow
@pytest.mark.parametrize("make_map", MAPS)
@pytest.mark.parametrize("latent_size", [1, 3])
def test_maps_repeat_and_refuse_equal_latents(make_map, latent_size):
    points = POINTS[:, :latent_size]
    np.testing.assert_array_equal(make_map(points), make_map(points))
    for scale in (0.0, 1e-25, 1e25):
        with pytest.raises(NotMeasured, match="the latent means differ by"):
            make_map(points * np.float32(scale))


@pytest.mark.parametrize("make_map", MAPS)
@pytest.mark.parametrize(
    "points",
    [
        POINTS * [[1.0, 0.0, 0.0]],  # one active unit
        (np.arange(150) < 75)[:, None] * np.ones(3),  # two points
        np.eye(150, 3),  # nearly all equal
        POINTS * 1e-10,
        POINTS * 1e10,
    ],
)
def test_latents_that_hardly_differ_have_a_map(make_map, points):
    measured = Measurer()
    assert measured("map", make_map, points.astype(np.float32)).shape == (150, 2)
    assert measured.not_measured is None


def test_t_sne_needs_more_images_than_neighbors():
    with pytest.raises(NotMeasured, match="30 neighbors"):
        latent_statistics.tsne_map(POINTS[:30])
    assert latent_statistics.pca_map(POINTS[:2]).shape == (2, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_posteriors_that_are_not_finite_or_overflow(value):
    mean, log_var = POINTS.copy(), POINTS.copy()
    log_var[3, 1] = value
    measures = latent_statistics.posterior_measures(
        small_vae(3), {}, jax.random.key(0), Posterior(mean, log_var), Batch()
    )
    assert measures.active_units == 3
    assert measures.kl_per_dimension is measures.aggregate_variance is None
    assert len(measures.aggregate_mean) == 3
    assert measures.not_measured.keys() == {"kl_per_dimension", "aggregate_variance"}


def test_numbers_that_are_not_finite_are_not_measured():
    measured = Measurer()
    assert measured("inputs", np.nanmean, np.array([1.0, np.nan])) is None  # it would be 1
    assert measured("value", np.log, np.zeros(2)) is None
    assert measured("mean", np.mean, np.ones(2)) == 1.0
    assert measured.not_measured.keys() == {"inputs", "value"}
