"""The likelihoods of pixels against SciPy, integrals and numerical gradients."""

import itertools

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
)

RNG = np.random.RandomState(0)
BERNOULLI = Bernoulli()
ALL = pytest.mark.parametrize("likelihood", [kind() for kind in LIKELIHOODS.values()], ids=str)


@pytest.mark.parametrize("is_gray", [False, True])
def test_bernoulli_is_scipys_and_on_gray_pixels_cross_entropy(is_gray):
    logits = RNG.normal(scale=3.0, size=(5, 28, 28, 1)).astype(np.float32)
    images = RNG.uniform(size=(5, 28, 28, 1)).astype(np.float32)
    p = scipy.special.expit(np.float64(logits))
    expected = scipy.special.xlogy(images, p) + scipy.special.xlogy(1.0 - images, 1.0 - p)
    if not is_gray:
        images = np.round(images)
        expected = scipy.stats.bernoulli.logpmf(images, p)
    actual = BERNOULLI.log_prob(logits, images)
    np.testing.assert_allclose(actual, expected.sum((1, 2, 3)), rtol=1e-5)


def test_bernoulli_keeps_precision_of_small_losses():
    # log sigmoid(30) = -9.4e-14, which 30 - softplus(30) would round to 0.
    actual = BERNOULLI.log_prob(jnp.array([[30.0]]), jnp.array([[1.0]]))
    np.testing.assert_allclose(actual, [-np.log1p(np.exp(-30.0))], rtol=1e-5)


def test_bernoulli_at_extreme_logits():
    logits = jnp.array([[-1e4, 1e4], [1e4, -1e4], [0.0, 1e4], [-1e4, 0.0]])
    images = jnp.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [1.0, 1.0]])
    half = np.log(0.5)
    expected = [0.0, -2e4, half - 5e3, half - 1e4]
    np.testing.assert_allclose(BERNOULLI.log_prob(logits, images), expected, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda logits: BERNOULLI.log_prob(logits, images).sum()))(logits)
    # d/dl = x - sigmoid(l)
    np.testing.assert_allclose(gradient, images - scipy.special.expit(logits), atol=1e-7)


def test_bits_per_dimension():
    # Pixels that are one of 256 levels with equal probability have 8 bits each.
    assert to_bits_per_dimension(48 * np.log(256.0), 48) == pytest.approx(8.0)


LOGITS = np.array([-50.0, -8.0, -1.0, -0.06, -0.04, -1e-3, 0.0, 1e-3, 0.04, 0.06, 2.0, 50.0])


def test_continuous_bernoulli_is_its_definition_with_its_integral_and_mean():
    """The density exp(l x) over its integral, in double precision."""
    x, weights = np.polynomial.legendre.leggauss(200)
    x, weights = (x + 1.0) / 2.0, weights / 2.0
    log_prob, mean_of = map(jax.jit, (ContinuousBernoulli().log_prob, ContinuousBernoulli().mean))
    for logit in np.float64(np.float32(LOGITS)):
        outputs = jnp.full((len(x), 1), logit, jnp.float32)
        actual = np.asarray(log_prob(outputs, jnp.asarray(x)[:, None]))
        density = np.exp(logit * x) * (logit / np.expm1(logit) if logit else 1.0)
        np.testing.assert_allclose(actual, np.log(density), rtol=2e-6, atol=3e-6)
        assert (weights * np.exp(actual)).sum() == pytest.approx(1.0, abs=1e-5)
        mean = mean_of(outputs[:1])
        assert mean == pytest.approx((weights * x * density).sum(), rel=3e-6)


def test_continuous_bernoulli_gradients_are_finite_and_meet_at_the_series():
    """d log p / dl = x - mean, at any logit."""
    logits = jnp.asarray([*LOGITS, -1e4, 1e4, -1e8, 1e8], jnp.float32)[:, None]

    def total(logits):
        return ContinuousBernoulli().log_prob(logits, jnp.full_like(logits, 0.25)).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(logits)
    assert np.isfinite(value)
    expected = 0.25 - jax.jit(ContinuousBernoulli().mean)(logits)
    np.testing.assert_allclose(gradient, expected, atol=2e-5)


def scale_of(raw):
    # Softplus of a number this far above 0 is the number itself within 1e-2: written out.
    return np.exp(-7.0 + np.log1p(np.exp(raw + np.log(0.1) + 7.0)))


def test_gaussian_equals_scipy():
    logits, raw = RNG.normal(size=(2, 4, 3, 5, 3))
    images = RNG.uniform(size=(4, 3, 5, 3))
    outputs = np.concatenate([logits, raw], axis=-1)
    normal = scipy.stats.norm(scipy.special.expit(logits), scale_of(raw))
    actual = Gaussian().log_prob(jnp.float32(outputs), jnp.float32(images))
    np.testing.assert_allclose(actual, normal.logpdf(images).sum((1, 2, 3)), rtol=1e-5)


def test_discretized_logistic_sums_to_1_over_the_levels_with_its_mean():
    extremes = [-1e4, -50.0, -3.0, 0.0, 0.3, 5.0, 50.0, 1e4]
    levels = np.arange(256.0) / 255.0
    outputs = np.float32([*itertools.product(extremes, extremes)])  # of each location and scale
    log_probs = jax.jit(DiscretizedLogistic().log_prob)(
        np.repeat(outputs, 256, axis=0), np.tile(np.float32(levels), len(outputs))[:, None]
    )
    probs = np.exp(np.asarray(log_probs, np.float64)).reshape(-1, 256)
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=2e-4)
    mean = jax.jit(DiscretizedLogistic().mean)(outputs)[:, 0]
    half_a_level = 0.5 / 255.0 + 1e-4
    np.testing.assert_allclose(mean, probs @ levels, rtol=0.0, atol=half_a_level)


@pytest.mark.slow
def test_discretized_logistic_equals_differences_of_scipys_distribution():
    # Scales of a tenth and more: SciPy's differences of narrower ones round to 0.
    logits, raw = RNG.uniform(0.0, 2.0, size=(2, 5, 4, 3))
    levels = RNG.randint(0, 256, size=(5, 4, 3))
    levels[0], levels[1] = 0, 255
    distribution = scipy.stats.logistic(scipy.special.expit(logits), scale_of(raw))
    upper = np.where(levels == 255, 1.0, distribution.cdf((levels + 0.5) / 255.0))
    lower = np.where(levels == 0, 0.0, distribution.cdf((levels - 0.5) / 255.0))
    outputs = np.concatenate([logits, raw], axis=-1)
    actual = DiscretizedLogistic().log_prob(jnp.float32(outputs), jnp.float32(levels / 255.0))
    np.testing.assert_allclose(actual, np.log(upper - lower).sum((1, 2)), rtol=1e-4)


@pytest.mark.slow
@ALL
def test_gradients_equal_numerical_ones(likelihood):
    images = RNG.randint(0, 256, size=(2, 5, 1)) / 255.0
    with jax.enable_x64(True):
        outputs = RNG.normal(size=(2, 5, likelihood.num_outputs + likelihood.learns_scale))
        log_prob = jax.jit(lambda outputs: likelihood.log_prob(outputs, images))
        check_grads(log_prob, (outputs,), order=2, modes=["rev"])


@ALL
def test_samples_have_the_mean(likelihood):
    outputs = np.zeros((20_000, 4, likelihood.num_outputs + likelihood.learns_scale), np.float32)
    outputs[..., 0] = [-3.0, -0.01, 1.0, 6.0]
    samples = np.asarray(jax.jit(likelihood.sample)(jax.random.key(0), outputs))
    assert samples.shape == (20_000, 4, 1)
    assert samples.dtype == outputs.dtype
    if likelihood.is_binary:
        assert set(np.unique(samples)) == {0.0, 1.0}
    elif likelihood.is_discrete:
        np.testing.assert_allclose(samples * 255.0, np.round(samples * 255.0), atol=1e-4)
    error = samples.std(0) / np.sqrt(len(samples))
    mean = likelihood.mean(jnp.asarray(outputs[:1]))[0]
    assert np.all(np.abs(samples.mean(0) - mean) < 5 * error + 1e-4)


@ALL
def test_outputs_have_the_mean_asked_for(likelihood):
    means = jnp.array([[0.02, 0.25, 0.5], [0.7, 0.97, 0.4]])
    outputs = likelihood.outputs_with_mean(means)
    assert outputs.shape == (2, 3 * likelihood.num_outputs)
    if likelihood.learns_scale:
        outputs = jnp.concatenate([outputs, jnp.full_like(outputs, -3.0)], axis=-1)
    elif likelihood.num_outputs == 2:
        outputs = outputs.at[:, 3:].set(-3.0)  # a narrow distribution, hardly clipped
    np.testing.assert_allclose(likelihood.mean(outputs), means, atol=2e-3)
    clipped = likelihood.outputs_with_mean(jnp.array([[0.0, 1.0]]))
    np.testing.assert_array_equal(clipped, likelihood.outputs_with_mean(jnp.array([[1e-3, 0.999]])))


@ALL
def test_shapes_that_would_broadcast_are_refused(likelihood):
    with pytest.raises(ValueError, match=r"outputs have shape \(2, 1, 1\), must have \(2, 8"):
        likelihood.log_prob(jnp.zeros((2, 1, 1)), jnp.zeros((2, 8, 1)))
