"""Likelihood estimates against the truth: quadrature, a closed form, plain sums."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tests.support.common import apply, make_settings, small_vae
from vae_jax.evaluation import log_likelihood
from vae_jax.model import losses
from vae_jax.model.encoders import LSTMEncoder
from vae_jax.model.priors import CouplingFlow
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.training import steps

RANDOM = np.random.default_rng(0)
CONVOLUTIONAL = LSTMEncoder(2, "swish", hidden_size=4, map_channels=3, residual_blocks=1)
DATA = Batch((RANDOM.uniform(size=(7, 8, 8, 1)) < 0.2).astype(np.uint8) * np.uint8(255))


@functools.cache
def make_model(latent_size, **parts):
    model = dataclasses.replace(small_vae(latent_size, 4, (8, 8, 1)), **parts)
    state = steps.initial_state(make_settings(model), seed=0)
    # Untrained, p(x | z) hardly depends on z: larger kernels make it do so.
    params = jax.tree.map(lambda leaf: 1.75 * leaf, state.params)
    if "prior" in parts:  # untrained, a flow is the standard normal
        params["prior"] = jax.tree.map(
            lambda leaf: (
                leaf + np.float32(0.15) * RANDOM.normal(size=leaf.shape).astype(np.float32)
            ),
            state.params["prior"],
        )
    return model, params, state.root_key


@pytest.fixture
def trained(monkeypatch):
    """A model of two latents; samples are drawn one by one, so that one program serves all."""
    monkeypatch.setattr(log_likelihood, "_SAMPLES_PER_CALL", 1)
    return make_model(2)


def estimate(trained, num_samples, data=DATA, **options):
    return log_likelihood.estimate(*trained, data, num_samples, **options)


def quadrature(trained, latent_size):
    """log of the integral of p(x | z) p(z), on a grid that is wide and fine."""
    model, params, _ = trained
    line = np.linspace(-7.0, 7.0, 281 if latent_size == 1 else 141)
    grid = np.stack(np.meshgrid(*[line] * latent_size), -1).reshape(-1, latent_size)
    logits = apply(model, params, grid.astype(np.float32), Batch(), method="decode")
    logits = np.asarray(logits, np.float64)
    pixels = DATA.images / 255.0
    # log p(x | z) = sum of x * logit - log(1 + exp(logit)).
    log_joint = np.einsum("ghwc,nhwc->gn", logits, pixels)
    log_joint -= np.logaddexp(0.0, logits).sum((1, 2, 3))[:, None]
    method = lambda model, latents: model.prior(DATA).log_density(latents)  # noqa: E731
    log_prior = np.asarray(apply(model, params, grid.astype(np.float32), method=method))
    log_joint += log_prior.reshape(len(grid), -1)
    cell = (line[1] - line[0]) ** latent_size
    return scipy.special.logsumexp(log_joint, axis=0) + np.log(cell)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent_size", "parts"),
    [(1, {}), (2, {"prior": CouplingFlow(2, 4, 8), "encoder": CONVOLUTIONAL})],
    ids=["line", "flow"],
)
def test_the_estimate_is_the_integral(latent_size, parts):
    trained = make_model(latent_size, **parts)
    expected = quadrature(trained, latent_size)
    estimates = estimate(trained, 500)
    # The relative error of the mean weight is 1 / sqrt(effective sample size), about.
    errors = 1.0 / np.sqrt(estimates.effective_sample_size)
    assert errors.max() < 0.1
    assert np.all(np.abs(estimates.log_likelihood - expected) < 4 * errors)
    assert np.all(-estimates.negative_elbo < expected)
    assert np.mean(expected + estimates.negative_elbo) > 0.1  # so that they are told apart


def test_with_samples_from_the_prior_the_estimate_is_unbiased_where_the_posterior_is_astray():
    """x = W z + noise; q is narrow and four deviations off, and one sample in ten is from p(z)."""
    weights, noise, x = RANDOM.normal(size=(3, 2)), 0.9, RANDOM.normal(size=3)
    expected = scipy.stats.multivariate_normal(
        np.zeros(3), weights @ weights.T + noise**2 * np.eye(3)
    ).logpdf(x)
    num_repeats, mean, scale = 20_000, np.array([3.0, -3.0]), 0.3
    from_q = mean + scale * RANDOM.normal(size=(9, num_repeats, 2))
    latents = np.concatenate([from_q, RANDOM.normal(size=(1, num_repeats, 2))])
    log_likelihoods = scipy.stats.norm(latents @ weights.T, noise).logpdf(x).sum(-1)
    log_ratios = (
        log_likelihoods
        + scipy.stats.norm.logpdf(latents).sum(-1)
        - scipy.stats.norm(mean, scale).logpdf(latents).sum(-1)
    )
    log_weights = losses.balance_heuristic(log_ratios, log_likelihoods, 0.1)
    estimates = np.asarray(losses.importance_weighted_bound(log_weights), np.float64)
    relative = np.exp(estimates - expected)
    error = relative.std() / np.sqrt(num_repeats)
    assert error < 0.02
    assert abs(relative.mean() - 1.0) < 4 * error
    # Of q alone nearly all estimates are far too low, and nothing shows it.
    alone = losses.importance_weighted_bound(log_ratios[:9])
    assert np.median(np.exp(alone - expected)) < 0.01


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_the_balance_heuristic_is_its_formula_and_never_nan(fraction):
    log_likelihood, log_prior, log_q = RANDOM.normal(size=(3, 50)) * 3
    ratio = log_likelihood + log_prior - log_q
    mixture = fraction * np.exp(log_prior) + (1 - fraction) * np.exp(log_q)
    weights = losses.balance_heuristic(ratio, log_likelihood, fraction)
    expected = log_likelihood + log_prior - np.log(mixture)
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-5)
    log_likelihood = jnp.float32([-80.0, -80.0, -80.0, -np.inf, -1e30])
    # q far below the prior, far above, the prior zero, p(x | z) zero.
    ratio = jnp.float32([1e20, -2e14, -np.inf, -np.inf, -3e30])
    weights = losses.balance_heuristic(ratio, log_likelihood, 0.1)
    expected = [-80.0 + np.log(10.0), -2e14, -np.inf, -np.inf, -3e30]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_the_effective_sample_size_is_its_formula():
    log_weights = RANDOM.normal(size=(50, 3)) * 3 - 500  # far below what exp can hold
    shifted = np.exp(log_weights + 500)
    expected = shifted.sum(0) ** 2 / (shifted**2).sum(0)
    np.testing.assert_allclose(losses.effective_sample_size(log_weights), expected, rtol=1e-3)


@pytest.mark.slow
def test_samples_are_decided_by_seed_image_and_number(trained):
    model, params, root_key = trained
    nine, ten = (estimate(trained, k) for k in (9, 10))
    # The tenth sample is from the prior, which the bound does not see.
    np.testing.assert_array_equal(ten.negative_elbo, nine.negative_elbo)
    posterior = apply(model, params, DATA.to_intensities(), method="posterior")
    mean, scale = (np.float64(each) for each in (posterior.mean, np.exp(0.5 * posterior.log_var)))
    for row in (0, 4):
        streams = [stream_key(root_key, s, row) for s in (Stream.IMPORTANCE, Stream(12))]
        noise = [jax.random.normal(jax.random.fold_in(streams[0], i), (2,)) for i in range(9)]
        from_prior = jax.random.normal(jax.random.fold_in(streams[1], 0), (1, 2))
        latents = np.float64(np.concatenate([mean[row] + scale[row] * noise, from_prior]))
        logits = np.float64(apply(model, params, np.float32(latents), Batch(), method="decode"))
        joint = (logits * (DATA.images[row] / 255) - np.logaddexp(0.0, logits)).sum((1, 2, 3))
        prior = scipy.stats.norm.logpdf(latents).sum(1)
        q = scipy.stats.norm.logpdf(latents, mean[row], scale[row]).sum(1)
        joint += prior
        mixture = np.logaddexp(np.log(0.1) + prior, np.log(0.9) + q)
        for actual, weights in ((nine, (joint - q)[:9]), (ten, joint - mixture)):
            expected = scipy.special.logsumexp(weights) - np.log(len(weights))
            assert actual.log_likelihood[row] == pytest.approx(expected, rel=1e-5)
        assert ten.negative_elbo[row] == pytest.approx((q - joint)[:9].mean(), rel=1e-5)


@pytest.mark.slow
def test_chunks_do_not_change_the_estimate(trained, monkeypatch):
    expected = estimate(trained, 20)
    monkeypatch.setattr(log_likelihood, "_SAMPLES_PER_CALL", 4)
    monkeypatch.setattr(log_likelihood, "_images_at_once", lambda: 3)
    actual = estimate(trained, 20)
    for name in ("log_likelihood", "negative_elbo", "effective_sample_size"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), rtol=1e-3)


def test_the_summary_is_in_nats_per_image():
    estimates = log_likelihood.Likelihoods(
        np.array([82.0, 92.0]), np.array([-80.0, -90.0]), np.array([3.0, 5.0])
    )
    measures = estimates.summarize(num_samples=5, binarization_seed=7, num_dimensions=100)
    assert measures.negative_log_likelihood == 85.0
    assert measures.standard_error == pytest.approx(np.std([80, 90], ddof=1) / np.sqrt(2))
    assert (measures.negative_elbo, measures.gap) == (87.0, 2.0)
    assert measures.effective_sample_size == 4.0
    assert (measures.num_images, measures.num_importance_samples) == (2, 5)
    assert measures.binarization_seed == 7
    assert measures.bits_per_dimension == pytest.approx(0.85 / np.log(2.0))
