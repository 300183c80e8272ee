"""The likelihoods of pixels against SciPy and numerical gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from vae_jax.model.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    to_bits_per_dimension,
    to_intensities,
)

RNG = np.random.RandomState(0)
BERNOULLI = Bernoulli()
EXTREMES = jnp.array([[-1e4, 1e4], [1e4, -1e4], [0.0, 1e4], [-1e4, 0.0]])


def test_bernoulli_equals_scipy_on_binary_pixels():
    logits = RNG.normal(scale=3.0, size=(5, 28, 28, 1)).astype(np.float32)
    images = RNG.randint(0, 2, size=(5, 28, 28, 1)).astype(np.float32)
    expected = scipy.stats.bernoulli.logpmf(images, scipy.special.expit(logits.astype(np.float64)))
    actual = BERNOULLI.log_prob(logits, images)
    assert actual.shape == (5,)
    np.testing.assert_allclose(actual, expected.sum((1, 2, 3)), rtol=1e-5)


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
    with pytest.raises(ValueError, match=r"\(2, 784\).*\(2, 28, 28, 1\)"):
        BERNOULLI.log_prob(jnp.zeros((2, 784)), jnp.zeros((2, 28, 28, 1)))


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


def test_intensities_are_not_taken_for_bytes():
    with pytest.raises(TypeError, match="pixels are float32, must be uint8, from 0 to 255"):
        to_intensities(jnp.zeros(3))


def test_bits_per_dimension():
    # Pixels that are one of 256 levels with equal probability have 8 bits each.
    assert to_bits_per_dimension(48 * np.log(256.0), 48) == pytest.approx(8.0)


LOGITS = np.array([-50.0, -8.0, -1.0, -0.06, -0.04, -1e-3, 0.0, 1e-3, 0.04, 0.06, 2.0, 50.0])


def continuous_bernoulli(logit, x):
    """The density by its definition, exp(l x) over its integral, in double precision."""
    return np.exp(logit * x) * (logit / np.expm1(logit) if logit else 1.0)


def test_continuous_bernoulli_is_its_definition_and_integrates_to_1():
    x, weights = np.polynomial.legendre.leggauss(200)
    x, weights = (x + 1.0) / 2.0, weights / 2.0
    for logit in LOGITS:
        outputs = jnp.full((len(x), 1), logit, jnp.float32)
        actual = np.asarray(ContinuousBernoulli().log_prob(outputs, jnp.asarray(x)[:, None]))
        expected = np.log(continuous_bernoulli(float(outputs[0, 0]), x))
        np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=3e-6)
        assert (weights * np.exp(actual)).sum() == pytest.approx(1.0, abs=1e-5)


def test_continuous_bernoulli_means_are_integrals():
    x, weights = np.polynomial.legendre.leggauss(200)
    x, weights = (x + 1.0) / 2.0, weights / 2.0
    expected = [(weights * x * continuous_bernoulli(logit, x)).sum() for logit in LOGITS]
    outputs = jnp.asarray(LOGITS, jnp.float32)
    np.testing.assert_allclose(ContinuousBernoulli().mean(outputs), expected, rtol=3e-6)


def test_continuous_bernoulli_gradients_are_finite_and_meet_at_the_series():
    """d log p / dl = x - mean, at any logit."""
    logits = jnp.asarray([*LOGITS, -1e4, 1e4, -1e8, 1e8], jnp.float32)[:, None]

    def total(logits):
        return ContinuousBernoulli().log_prob(logits, jnp.full_like(logits, 0.25)).sum()

    value, gradient = jax.value_and_grad(total)(logits)
    assert np.isfinite(value)
    expected = 0.25 - ContinuousBernoulli().mean(logits)
    np.testing.assert_allclose(gradient, expected, atol=2e-5)


def test_gaussian_equals_scipy():
    logits, raw = RNG.normal(size=(2, 4, 3, 5, 3))
    images = RNG.uniform(size=(4, 3, 5, 3))
    outputs = np.concatenate([logits, raw], axis=-1)
    # Softplus of a number so far above 0 is that number but for 1e-2: it is written out.
    scale = np.exp(-7.0 + np.log1p(np.exp(raw + np.log(0.1) + 7.0)))
    expected = scipy.stats.norm.logpdf(images, scipy.special.expit(logits), scale).sum((1, 2, 3))
    actual = Gaussian().log_prob(jnp.float32(outputs), jnp.float32(images))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


EDGES = [-1e4, -50.0, -3.0, 0.0, 0.3, 50.0, 1e4]


def test_discretized_logistic_sums_to_1_over_the_levels():
    levels = jnp.arange(256.0)[:, None] / 255.0
    for location in EDGES:
        for raw in EDGES:
            outputs = jnp.broadcast_to(jnp.array([location, raw]), (256, 2))
            log_probs = np.asarray(DiscretizedLogistic().log_prob(outputs, levels), np.float64)
            assert np.isfinite(log_probs).all()
            assert np.exp(log_probs).sum() == pytest.approx(1.0, abs=2e-4), (location, raw)


def test_discretized_logistic_equals_differences_of_scipys_distribution():
    # Scales of a tenth and more: SciPy's differences of narrower ones round to 0.
    logits, raw = RNG.uniform(0.0, 2.0, size=(2, 5, 4, 3))
    levels = RNG.randint(0, 256, size=(5, 4, 3))
    levels[0], levels[1] = 0, 255
    distribution = scipy.stats.logistic(
        scipy.special.expit(logits), np.exp(-7.0 + np.log1p(np.exp(raw + np.log(0.1) + 7.0)))
    )
    upper = np.where(levels == 255, 1.0, distribution.cdf((levels + 0.5) / 255.0))
    lower = np.where(levels == 0, 0.0, distribution.cdf((levels - 0.5) / 255.0))
    outputs = np.concatenate([logits, raw], axis=-1)
    actual = DiscretizedLogistic().log_prob(jnp.float32(outputs), jnp.float32(levels / 255.0))
    np.testing.assert_allclose(actual, np.log(upper - lower).sum((1, 2)), rtol=1e-4)


def test_discretized_logistic_means_are_within_half_a_level_of_the_sums():
    levels = np.arange(256.0) / 255.0
    for location in (-50.0, -2.0, 0.1, 3.0):
        for raw in (-50.0, -3.0, 0.0, 2.0, 5.0, 50.0):
            outputs = jnp.array([[location, raw]])
            every = jnp.broadcast_to(outputs, (256, 2))
            log_probs = DiscretizedLogistic().log_prob(every, jnp.float32(levels)[:, None])
            expected = (np.exp(np.asarray(log_probs, np.float64)) * levels).sum()
            [[actual]] = DiscretizedLogistic().mean(outputs)
            assert actual == pytest.approx(expected, abs=0.5 / 255.0 + 1e-4), (location, raw)


SEVERAL = {name: kind() for name, kind in LIKELIHOODS.items() if name != "bernoulli"}


@pytest.mark.parametrize("likelihood", SEVERAL.values(), ids=SEVERAL)
def test_gradients_equal_numerical_ones(likelihood):
    parameters = likelihood.num_outputs + likelihood.learns_scale
    images = RNG.randint(0, 256, size=(2, 5, 1)) / 255.0
    with jax.enable_x64(True):
        arguments = (RNG.normal(size=(2, 5, parameters)),)
        check_grads(lambda o: likelihood.log_prob(o, images), arguments, order=1, modes=["rev"])


@pytest.mark.parametrize("likelihood", SEVERAL.values(), ids=SEVERAL)
def test_samples_have_the_mean(likelihood):
    parameters = likelihood.num_outputs + likelihood.learns_scale
    outputs = np.zeros((20_000, 4, parameters), np.float32)
    outputs[..., 0] = [-3.0, -0.01, 1.0, 6.0]
    samples = likelihood.sample(jax.random.key(0), jnp.asarray(outputs))
    assert samples.shape == (20_000, 4, 1)
    error = samples.std(0) / np.sqrt(len(samples))
    mean = likelihood.mean(jnp.asarray(outputs[:1]))[0]
    assert np.all(np.abs(samples.mean(0) - mean) < 5 * error + 1e-4)


@pytest.mark.parametrize("likelihood", SEVERAL.values(), ids=SEVERAL)
def test_outputs_have_the_mean_asked_for(likelihood):
    means = jnp.array([[0.02, 0.25, 0.5], [0.7, 0.97, 0.4]])
    outputs = likelihood.outputs_with_mean(means)
    assert outputs.shape == (2, 3 * likelihood.num_outputs)
    if likelihood.learns_scale:
        outputs = jnp.concatenate([outputs, jnp.full_like(outputs, -3.0)], axis=-1)
    elif likelihood.num_outputs == 2:
        outputs = outputs.at[:, 3:].set(-3.0)  # a narrow distribution, hardly clipped
    np.testing.assert_allclose(likelihood.mean(outputs), means, atol=2e-3)


@pytest.mark.parametrize("likelihood", SEVERAL.values(), ids=SEVERAL)
def test_images_of_another_shape_are_refused(likelihood):
    with pytest.raises(ValueError, match="outputs have shape"):
        likelihood.log_prob(jnp.zeros((2, 7, 1)), jnp.zeros((2, 8, 1)))
