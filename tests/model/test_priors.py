"""The priors against SciPy, Jacobians and integrals, and that the parts of the model ask them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from tests.support import laplace
from tests.support.common import apply, make_settings, train_step
from vae_jax.evaluation import generation
from vae_jax.model.objective import Objective, training_loss
from vae_jax.model.priors import (
    ClosedFormPrior,
    CouplingFlow,
    FlowPrior,
    GaussianMixture,
)
from vae_jax.model.structs import Batch
from vae_jax.model.vae import create_vae
from vae_jax.training import steps

RANDOM = np.random.RandomState(0)
MEAN, LOG_VAR, LATENTS = RANDOM.normal(size=(3, 5, 4)).astype(np.float32)
BATCH = Batch(jnp.asarray(RANDOM.uniform(size=(3, 8, 8, 1)) < 0.2, jnp.float32))
FLOW = CouplingFlow(4, num_layers=4, hidden_size=8)
loss_of = jax.jit(training_loss, static_argnums=(0, 1))


def bent(flow, scale=0.3):
    """Parameters of a flow that has learned something."""
    random = np.random.RandomState(0)
    latents = jnp.zeros((1, flow.latent_size))
    params = flow.init(jax.random.key(0), latents, method="log_density")["params"]
    return jax.tree.map(
        lambda leaf: leaf + scale * np.float32(random.normal(size=leaf.shape)), params
    )


def has_distribution(samples, cdf):
    return scipy.stats.kstest(np.ravel(samples), cdf).pvalue > 1e-3


def log_prior(model, latents):
    """The log-density of the prior, a method for `apply`."""
    return model.prior(BATCH).log_density(latents)


@pytest.mark.slow
def test_a_mixture_is_scipys():
    shapes = {"mean": (6, 4), "log_var": (6, 4), "logits": (6,)}
    params = {name: np.float32(RANDOM.normal(size=shape)) for name, shape in shapes.items()}
    prior = GaussianMixture(4, 6).bind({"params": params})
    normal = scipy.stats.norm(params["mean"], np.exp(0.5 * params["log_var"]))
    expected = scipy.special.logsumexp(
        normal.logpdf(LATENTS[:, None]).sum(-1) + scipy.special.log_softmax(params["logits"]),
        axis=1,
    )
    np.testing.assert_allclose(prior.log_density(LATENTS), expected, rtol=1e-5)
    samples = np.asarray(prior.sample(jax.random.key(0), 20_000))
    weights = scipy.special.softmax(params["logits"])
    for axis in range(4):
        cdf = lambda x, axis=axis: weights @ normal.cdf(x[:, None, None])[..., axis].T  # noqa: E731
        assert has_distribution(samples[:, axis], cdf)


@pytest.mark.slow
def test_a_vamp_prior_is_the_mixture_of_its_pseudo_inputs_posteriors():
    decoder = {"dense_sizes": (), "grid_channels": 1, "filters": (2,), "strides": (4,)}
    encoder = {"kind": "dense", "dense_sizes": (16,)}
    prior = {"kind": "vamp", "num_components": 5}
    model = create_vae(2, encoder, decoder, (8, 8, 1), prior=prior)
    params = steps.initial_state(make_settings(model), seed=0).params
    assert params["prior"].keys() == {"images"}  # the encoder is the model's own
    inputs = scipy.special.expit(params["prior"]["images"])
    posterior = apply(model, params, Batch(inputs), method="posterior")
    normal = scipy.stats.norm(posterior.mean, np.exp(0.5 * np.asarray(posterior.log_var)))
    latents = LATENTS[:, :2]
    expected = scipy.special.logsumexp(normal.logpdf(latents[:, None]).sum(-1), axis=1) - np.log(5)
    found = apply(model, params, latents, method=log_prior)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    samples = apply(model, params, method=lambda model: model.prior.sample(jax.random.key(0), 2000))
    np.testing.assert_allclose(samples.mean(0), posterior.mean.mean(0), atol=0.15)
    # Training images stay as they are, and no gradient reaches them.
    data = dataclasses.replace(model, prior=dataclasses.replace(model.prior, pseudo_inputs="data"))
    given = {**params, "prior": {"images": inputs}}
    np.testing.assert_allclose(apply(data, given, latents, method=log_prior), found, rtol=1e-6)
    gradient = jax.grad(lambda p: apply(data, p, latents, method=log_prior).sum())(given)
    assert not gradient["prior"]["images"].any()
    assert gradient["encoder"]["mean"]["kernel"].any()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 5])
def test_a_flow_maps_there_and_back(size):
    flow = CouplingFlow(size, num_layers=10, hidden_size=8)
    bound = flow.bind({"params": bent(flow, scale=0.1)})
    latents = np.float32(RANDOM.normal(size=(7, size)))
    base = jax.jit(bound.to_base)(latents)
    assert np.abs(base - latents).max() > 0.5
    # Ten layers bent this much lose two of the seven digits that float32 has; twice as much, four.
    np.testing.assert_allclose(jax.jit(bound.from_base)(base), latents, rtol=5e-5, atol=5e-5)


@pytest.mark.slow
def test_a_flow_has_the_density_of_its_jacobian_and_of_its_samples():
    flow = FLOW.bind({"params": bent(FLOW)})
    jacobian = jax.vmap(jax.jacfwd(lambda z: flow.to_base(z[None])[0]))(jnp.asarray(LATENTS))
    _, log_det = np.linalg.slogdet(np.asarray(jacobian, np.float64))
    expected = scipy.stats.norm.logpdf(np.asarray(flow.to_base(LATENTS))).sum(1) + log_det
    np.testing.assert_allclose(flow.log_density(LATENTS), expected, rtol=1e-4)
    samples = flow.sample(jax.random.key(1), 4000)
    assert has_distribution(flow.to_base(samples), "norm")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e3, -1e3])
def test_gradients_of_a_flow_are_finite_far_out(size):
    loss = lambda p, z: apply(FLOW, p, z, method="log_density").sum()  # noqa: E731
    for gradients in jax.grad(loss, argnums=(0, 1))(bent(FLOW), jnp.full((3, 4), size)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_flow_begins_as_the_standard_normal():
    params = FLOW.init(jax.random.key(0), LATENTS, method="log_density")["params"]
    found = apply(FLOW, params, LATENTS, method="log_density")
    np.testing.assert_allclose(found, scipy.stats.norm.logpdf(LATENTS).sum(1), rtol=1e-5)


@pytest.mark.slow
def test_the_documented_prior_is_used_by_the_objective(monkeypatch):
    """The class that docs/extending.md shows for a prior of one's own."""
    laplace.add_laplace_prior(monkeypatch)
    decoder = {"dense_sizes": (), "grid_channels": 1, "filters": (2,), "strides": (4,)}
    encoder = {"kind": "dense", "dense_sizes": (16,)}
    prior = {"kind": "laplace", "num_components": 5}
    model = create_vae(4, encoder, decoder, (8, 8, 1), prior=prior)
    assert not isinstance(model.prior, ClosedFormPrior | FlowPrior)
    settings = make_settings(model, optax.adam(0.01), batch_size=3)
    state = steps.initial_state(settings, seed=0)
    params, key = state.params, jax.random.key(1)
    samples = generation.draw_latents(model, params, key, 20_000)
    assert has_distribution(samples, "laplace")
    posterior = apply(model, params, BATCH, method="posterior")
    sample = posterior.sample(key)
    kl = sample.log_density - scipy.stats.laplace.logpdf(sample.latents).sum(-1)
    loss, (terms, _) = loss_of(Objective(kl_weight=0.5), model, params, BATCH, key, None, 0)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-4)
    expected = terms["reconstruction"].mean() + 0.5 * kl.mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # Importance weights.
    sample = posterior.sample(key, 3)
    weights, log_likelihood = apply(model, params, BATCH, sample, method="log_weights_of")
    log_prior = scipy.stats.laplace.logpdf(sample.latents).sum(-1)
    np.testing.assert_allclose(weights, log_likelihood + log_prior - sample.log_density, rtol=1e-5)
    pixels = Batch(np.uint8(255 * BATCH.images))
    values = []
    for _ in range(20):
        state, metrics = train_step(settings, state, pixels)
        values.append(float(metrics.sums["loss"]))
    assert values[-1] < 0.95 * values[0]
