"""Degenerate input to measures and maps: a number, or why there is none."""

import jax
import numpy as np
import pytest

from tests.support.common import small_vae
from vae_jax.evaluation import latent_statistics, sample_quality
from vae_jax.evaluation.measuring import Measurer, NotMeasured
from vae_jax.model.posterior import Posterior
from vae_jax.model.structs import Batch

POINTS = np.random.default_rng(0).normal(size=(150, 3)).astype(np.float32)
ALIKE = np.full_like(POINTS, 5.0)
MAPS = (latent_statistics.pca_map, latent_statistics.tsne_map)


@pytest.mark.parametrize("make_map", MAPS)
@pytest.mark.parametrize("latent_size", [1, 3])
@pytest.mark.parametrize("points", [ALIKE, POINTS * np.float32(1e-25), POINTS * np.float32(1e25)])
def test_latents_that_do_not_differ_have_no_map(make_map, latent_size, points):
    with pytest.raises(NotMeasured, match="the latent means differ by"):
        make_map(points[:, :latent_size])


@pytest.mark.parametrize("make_map", MAPS)
@pytest.mark.parametrize(
    "points",
    [
        POINTS * [[1.0, 0.0, 0.0]],  # one active unit
        (np.arange(150) < 75)[:, None] * np.ones(3),  # two points
        np.eye(150, 3),  # nearly all alike
        POINTS * 1e-10,
        POINTS * 1e10,
    ],
)
def test_latents_that_hardly_differ_have_one(make_map, points):
    measured = Measurer()
    assert measured("map", make_map, points.astype(np.float32)).shape == (150, 2)
    assert measured.not_measured is None


def test_images_fewer_than_neighbors():
    with pytest.raises(NotMeasured, match="30 images, and it looks at 30 neighbors"):
        latent_statistics.tsne_map(POINTS[:30])
    assert latent_statistics.pca_map(POINTS[:2]).shape == (2, 2)
    for measure in (sample_quality.precision_and_recall, sample_quality.density_and_coverage):
        with pytest.raises(NotMeasured, match="3 images have no"):
            measure(POINTS[:3], POINTS)
    with pytest.raises(NotMeasured, match="a single image"):
        sample_quality.frechet_distance(POINTS, POINTS[:1])


def test_samples_all_alike_are_measured():
    real = np.random.default_rng(0).normal(size=(50, 8))
    alike = np.zeros((50, 8))
    assert sample_quality.frechet_distance(real, alike) > 0
    assert sample_quality.precision_and_recall(real, alike)[1] == 0.0
    assert np.isfinite(sample_quality.density_and_coverage(alike, alike)).all()


def test_images_without_gradients_have_no_sharpness():
    with pytest.raises(NotMeasured, match="no gradients"):
        sample_quality.sharpness(np.ones((2, 28, 28)), np.zeros((2, 28, 28)))


def test_the_probe_needs_two_classes_and_no_variance():
    labels = np.arange(150) % 3
    assert latent_statistics.linear_probe(ALIKE, labels, ALIKE, labels) == pytest.approx(1 / 3)
    with pytest.raises(NotMeasured, match="one class"):
        latent_statistics.linear_probe(POINTS, 0 * labels, POINTS, labels)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_posteriors_that_are_not_finite_or_overflow(value):
    mean, log_var = POINTS.copy(), POINTS.copy()
    log_var[3, 1] = value
    model = small_vae(3)
    posterior = Posterior(mean, log_var)
    measures = latent_statistics.posterior_measures(
        model, {}, jax.random.key(0), posterior, Batch()
    )
    assert measures.active_units == 3
    assert measures.kl_per_dimension is None
    assert measures.aggregate_variance is None
    assert len(measures.aggregate_mean) == 3
    assert measures.not_measured.keys() == {"kl_per_dimension", "aggregate_variance"}


def test_what_is_not_finite_is_not_measured():
    measured = Measurer()
    not_finite = np.array([1.0, np.nan])
    assert measured("inputs", np.nanmean, not_finite) is None  # it would be 1
    assert measured("value", np.log, np.zeros(2)) is None
    assert measured("whole", np.mean, np.ones(2)) == 1.0
    assert measured.not_measured == {
        "inputs": "what it is measured of is not finite",
        "value": "it is not finite",
    }
