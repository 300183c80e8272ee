"""Likelihood estimates against the truth: quadrature, a closed form, plain sums."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tests.support.common import apply, make_settings, small_vae
from vae_jax.evaluation import log_likelihood
from vae_jax.model import importance
from vae_jax.model.coupling_flow import CouplingFlow
from vae_jax.model.priors import ClosedFormPrior, GaussianMixture
from vae_jax.model.structs import Batch
from vae_jax.training import steps

RANDOM = np.random.default_rng(0)
DATA = Batch((RANDOM.uniform(size=(7, 28, 28, 1)) < 0.2).astype(np.uint8) * np.uint8(255))


def make_model(latent_size, prior=None):
    model = small_vae(latent_size)
    model = dataclasses.replace(model, prior=prior) if prior else model
    state = steps.initial_state(make_settings(model), seed=0)
    # Untrained, p(x | z) hardly depends on z: larger kernels make it do so.
    params = jax.tree.map(lambda leaf: 1.5 * leaf, state.params)
    if prior:  # untrained, a flow is the standard normal
        params["prior"] = jax.tree.map(
            lambda leaf: (
                leaf + np.float32(0.15) * RANDOM.normal(size=leaf.shape).astype(np.float32)
            ),
            state.params["prior"],
        )
    return model, params, state.root_key


def estimate(trained, num_samples, folder, data=DATA, identity="a"):
    return log_likelihood.estimate(*trained, data, num_samples, folder, identity)


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
    if isinstance(model.prior, ClosedFormPrior):
        log_prior = scipy.stats.norm.logpdf(grid).sum(1)
    else:
        log_prior = np.asarray(
            apply(
                model,
                params,
                grid.astype(np.float32),
                method=lambda model, latents: model.prior(DATA).log_density(latents),
            )
        )
        assert np.exp(log_prior).sum() * (line[1] - line[0]) ** 2 == pytest.approx(1.0, abs=0.02)
    log_joint += log_prior[:, None]
    cell = (line[1] - line[0]) ** latent_size
    return scipy.special.logsumexp(log_joint, axis=0) + np.log(cell)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent_size", "prior"),
    [(1, None), (2, None), (2, CouplingFlow(2, 4, 8)), (2, GaussianMixture(2, 5))],
    ids=["line", "plane", "flow", "mixture"],
)
def test_the_estimate_is_the_integral(tmp_path, latent_size, prior):
    trained = make_model(latent_size, prior)
    expected = quadrature(trained, latent_size)
    estimates = estimate(trained, 5000, tmp_path)
    # The relative error of the mean weight is 1 / sqrt(effective sample size), about.
    errors = 1.0 / np.sqrt(estimates.effective_sample_size)
    assert errors.max() < 0.1
    assert np.all(np.abs(estimates.log_likelihood - expected) < 4 * errors)
    assert np.all(estimates.elbo < expected)
    assert np.mean(expected - estimates.elbo) > 0.1  # so that the bound and it are told apart


def test_the_estimate_grows_with_the_number_of_samples(tmp_path):
    trained = make_model(2)
    means = [estimate(trained, k, tmp_path).log_likelihood.mean() for k in (1, 5, 50, 500)]
    assert means == sorted(means)
    assert means[0] < means[-1] - 0.1


def test_a_linear_gaussian_model_has_its_closed_form():
    """x = W z + b + noise: log p(x) = log N(x; b, W W' + s^2 I); q is anything."""
    weights, offset, noise = RANDOM.normal(size=(6, 2)), RANDOM.normal(size=6), 0.7
    x = RANDOM.normal(size=(4, 6))
    covariance = weights @ weights.T + noise**2 * np.eye(6)
    expected = scipy.stats.multivariate_normal(offset, covariance).logpdf(x)
    # The true posterior, a little too wide: its weights vary, but not by much.
    precision = np.eye(2) + weights.T @ weights / noise**2
    means = (x - offset) @ weights @ np.linalg.inv(precision) / noise**2
    scale = 1.2 * np.sqrt(np.diag(np.linalg.inv(precision)))
    latents = means + scale * RANDOM.normal(size=(4000, 4, 2))
    log_weights = (
        scipy.stats.norm(latents @ weights.T + offset, noise).logpdf(x).sum(-1)
        + scipy.stats.norm.logpdf(latents).sum(-1)
        - scipy.stats.norm(means, scale).logpdf(latents).sum(-1)
    )
    sums = importance.no_weights(4)
    for piece in np.split(log_weights.astype(np.float32), [1, 7, 1500]):
        sums = importance.add_weights(sums, piece)
    np.testing.assert_allclose(importance.log_likelihood(sums), expected, atol=0.1)
    assert np.all(importance.evidence_lower_bound(sums) < expected)


def test_sums_in_pieces_are_the_formulas():
    log_weights = RANDOM.normal(size=(50, 3)) * 3 - 500  # far below what exp can hold
    sums = importance.no_weights(3)
    for piece in np.split(log_weights, [1, 2, 30]):
        sums = importance.add_weights(sums, piece)
    shifted = np.exp(log_weights + 500)
    expected = np.log(shifted.mean(0)) - 500
    np.testing.assert_allclose(importance.log_likelihood(sums), expected, rtol=1e-6)
    size = shifted.sum(0) ** 2 / (shifted**2).sum(0)
    np.testing.assert_allclose(importance.effective_sample_size(sums), size, rtol=1e-3)
    elbo = importance.evidence_lower_bound(sums)
    np.testing.assert_allclose(elbo, log_weights.mean(0), rtol=1e-6)


@pytest.mark.slow
def test_chunks_do_not_change_the_estimate(tmp_path, monkeypatch):
    trained = make_model(2)
    expected = estimate(trained, 23, tmp_path)
    monkeypatch.setattr(log_likelihood, "_images_at_once", lambda: 3)
    monkeypatch.setattr(log_likelihood, "_SAMPLES_PER_CALL", 4)
    actual = estimate(trained, 23, tmp_path)
    for name in ("log_likelihood", "elbo", "effective_sample_size"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), rtol=1e-3)


def test_an_interrupted_estimate_goes_on_where_it_was(tmp_path, monkeypatch):
    trained = make_model(2)
    monkeypatch.setattr(log_likelihood, "_images_at_once", lambda: 2)
    monkeypatch.setattr(log_likelihood, "_SECONDS_BETWEEN_SAVES", 0.0)
    expected = estimate(trained, 5, tmp_path)
    (tmp_path / log_likelihood.PARTIAL_NAME).unlink()
    batches = []
    estimate_batch = log_likelihood._estimate_batch

    def interrupted(model, params, root_key, data, first, *rest):
        batches.append(first)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return estimate_batch(model, params, root_key, data, first, *rest)

    monkeypatch.setattr(log_likelihood, "_estimate_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        estimate(trained, 5, tmp_path)
    actual = estimate(trained, 5, tmp_path)
    assert batches == [0, 2, 4, 4, 6]
    np.testing.assert_array_equal(actual.log_likelihood, expected.log_likelihood)
    # It is the caller's to remove, once the result is written.
    assert [path.name for path in tmp_path.iterdir()] == [log_likelihood.PARTIAL_NAME]


@pytest.mark.parametrize("damage", ["another", "cut"])
def test_what_another_estimate_left_is_not_used(tmp_path, damage):
    trained = make_model(2)
    path = tmp_path / log_likelihood.PARTIAL_NAME
    log_likelihood._write_partial(path, "b", np.full((3, 4), 7.0))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    assert np.all(estimate(trained, 2, tmp_path).log_likelihood < 0)


def test_the_summary_is_in_nats_per_image():
    estimates = log_likelihood.Likelihoods(
        np.array([-80.0, -90.0]), np.array([-82.0, -92.0]), np.array([3.0, 5.0])
    )
    measures = estimates.summarize(num_samples=5, binarization_seed=7, num_dimensions=100)
    assert dataclasses.asdict(measures) == {
        "negative_log_likelihood": 85.0,
        "standard_error": pytest.approx(np.std([80, 90], ddof=1) / np.sqrt(2)),
        "negative_elbo": 87.0,
        "gap": 2.0,
        "effective_sample_size": 4.0,
        "num_images": 2,
        "num_importance_samples": 5,
        "binarization_seed": 7,
        "bits_per_dimension": pytest.approx(0.85 / np.log(2.0)),
    }
