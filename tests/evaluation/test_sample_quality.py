"""Sample quality: closed forms, sets small enough to count, real digits and planted failures."""

import numpy as np
import pytest
import scipy.linalg

from vae_jax import datasets
from vae_jax.evaluation import digit_classifier, sample_quality
from vae_jax.evaluation.measures import try_measure

RANDOM = np.random.default_rng(0)


def test_frechet_distance_is_the_formula_with_a_matrix_root():
    mixing = RANDOM.normal(size=(2, 5, 5))
    real, generated = (RANDOM.normal(size=(400, 5)) @ m + i for i, m in enumerate(mixing))
    means = [features.mean(0) for features in (real, generated)]
    covariances = [np.cov(features.T) for features in (real, generated)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(sum(covariances) - 2 * root)
    assert sample_quality.frechet_distance(real, generated) == pytest.approx(expected, rel=1e-6)
    assert sample_quality.frechet_distance(real, real) == pytest.approx(0.0, abs=1e-9)


def counted(real, generated, k):
    """Precision, recall and coverage with loops over pairs, from the papers' sums."""

    def distance(first, second):
        return np.sqrt(np.sum((first - second) ** 2))

    def radius(point, points):
        return sorted(distance(point, other) for other in points)[k]

    def share_among(points, others):
        balls = [(other, radius(other, others)) for other in others]
        return np.mean([any(distance(p, o) <= r for o, r in balls) for p in points])

    is_hit = [any(distance(x, y) <= radius(x, real) for y in generated) for x in real]
    return share_among(generated, real), share_among(real, generated), np.mean(is_hit)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shift", [0.0, 1.5, 10.0])
def test_precision_recall_and_coverage_are_the_papers_sums(monkeypatch, k, shift):
    monkeypatch.setattr(sample_quality, "_CHUNK", 8)  # images at once
    monkeypatch.setattr(sample_quality, "_PRECISION_NEIGHBORS", k)
    monkeypatch.setattr(sample_quality, "_COVERAGE_NEIGHBORS", k)
    real, generated = RANDOM.normal(size=(30, 2)), RANDOM.normal(size=(20, 2)) * 0.6 + shift
    actual = sample_quality.neighbor_measures(real, generated)
    np.testing.assert_allclose(actual, counted(real, generated, k))
    assert np.isfinite(sample_quality.neighbor_measures(0 * real, 0 * real)).all()


def test_blanks_nearest_distances_and_sharpness_by_hand():
    images = np.zeros((4, 28, 28, 1))
    images[1, 0, :5] = 1.0  # 5 in all
    images[2, 0, :11] = 1.0
    images[3] = 0.4  # much, but nowhere dark
    assert sample_quality.is_blank(images, 10.0).tolist() == [True, True, False, True]
    training = np.zeros((2, 28, 28, 1))
    training[0, 3, 3], training[1, 3, 3:5] = 3.0, 1.0
    assert sample_quality.nearest_distances(images[:1], training) == pytest.approx(np.sqrt(2.0))
    # A single dot has four differences, a dot of half the intensity a quarter of their energy.
    assert sample_quality.sharpness(training[:1] / 2, training[:1]) == 0.25


def test_the_max_mean_step_ratio_of_an_even_path_is_one():
    even = np.linspace(0.0, 1.0, 11)[None, :, None, None, None] * np.ones((28, 28, 1))
    jump = (np.arange(11) > 4)[None, :, None, None, None] * np.ones((28, 28, 1))
    for paths, ratio in ((even, 1.0), (jump, 10.0), (np.concatenate([even, 0 * even]), 1.0)):
        assert sample_quality.max_mean_step_ratio(paths) == pytest.approx(ratio)


def test_what_few_or_flat_images_do_not_define_is_not_measured():
    points, flat = RANDOM.normal(size=(50, 8)), np.zeros((2, 28, 28))
    assert try_measure("", sample_quality.neighbor_measures, points[:5], points) is None
    assert try_measure("", sample_quality.frechet_distance, points, points[:1]) is None
    assert try_measure("", sample_quality.sharpness, flat + 1.0, flat) is None
    assert try_measure("", sample_quality.max_mean_step_ratio, flat[:0]) is None


@pytest.fixture(scope="module")
def digits():
    dataset = datasets.load("mnist_5k")
    return [
        split.images / np.float32(255)
        for split in (dataset.train, dataset.validation, dataset.test)
    ]


@pytest.fixture(scope="module")
def measure(digits):
    train, _, test = digits
    reference = sample_quality.make_reference(digit_classifier.load_weights(), train[500:], test)
    return lambda samples: sample_quality.measure(reference, samples.astype(np.float32))


@pytest.fixture(scope="module")
def ceiling(measure, digits):
    return measure(digits[1])  # held-out digits, 50 of each


def test_real_digits_are_as_good_as_real_digits(ceiling):
    assert ceiling.num_samples == 500
    assert min(ceiling.precision, ceiling.recall) > 0.8
    assert ceiling.coverage > 0.9
    assert ceiling.digits_present == 10
    assert ceiling.low_confidence_rate < 0.05
    assert ceiling.blank_fraction == 0.0
    assert ceiling.copy_fraction < 0.04


def test_blank_images_and_a_repeated_digit_are_found_out(measure, digits, ceiling):
    blank = measure(np.zeros((500, 28, 28, 1)))
    assert blank.blank_fraction == 1.0
    repeated = measure(np.repeat(digits[2][:1], 500, axis=0))
    assert repeated.precision == 1.0  # each is a fine digit
    for bad in (blank, repeated):
        assert bad.recall < 0.01
        assert bad.coverage < 0.05
        assert bad.digits_present == 1
        assert bad.frechet_distance > 10 * ceiling.frechet_distance


def test_noise_and_copies_of_training_images_are_found_out(measure, digits, ceiling):
    noise = measure(np.random.default_rng(1).uniform(size=(500, 28, 28, 1)))
    assert max(noise.precision, noise.coverage) < 0.01
    assert noise.low_confidence_rate > 0.99
    assert noise.frechet_distance > 10 * ceiling.frechet_distance
    copies = measure(digits[0][500:1000])
    assert copies.copy_fraction == 1.0
    assert copies.coverage > 0.85  # no other measure tells


def test_images_that_are_not_digits_are_measured_in_their_principal_components(digits):
    train, test, others = (
        (digits[0][start : start + 500, ::2, ::2] * [1.0, 0.5, 0.2]).astype(np.float32)
        for start in (0, 1000, 2000)
    )
    reference = sample_quality.make_reference(None, train, test)
    good = sample_quality.measure(reference, others)
    assert good.features == "principal components"
    assert good.digits_present is good.blank_fraction is None
    assert min(good.precision, good.recall) > 0.6
    bad = sample_quality.measure(reference, np.flip(others, 1))
    assert bad.frechet_distance > 3 * good.frechet_distance
