"""The priors against SciPy, Jacobians and integrals, and that the parts of the model ask them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from tests.support import laplace
from tests.support.common import apply, make_settings, small_vae, train_step
from vae_jax.evaluation import generation, latent_statistics
from vae_jax.model import vae
from vae_jax.model.objective import Objective, evaluation_terms, training_loss
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import (
    PRIORS,
    ClosedFormPrior,
    CouplingFlow,
    FlowPrior,
    GaussianMixture,
    StandardNormal,
)
from vae_jax.model.structs import Batch
from vae_jax.model.vae import create_vae
from vae_jax.training import steps

RANDOM = np.random.RandomState(0)
MEAN, LOG_VAR, LATENTS = RANDOM.normal(size=(3, 5, 4)).astype(np.float32)
BATCH = Batch(jnp.asarray(RANDOM.uniform(size=(3, 8, 8, 1)) < 0.2, jnp.float32))
FLOW = CouplingFlow(4, num_layers=4, hidden_size=8)
loss_of = jax.jit(training_loss, static_argnums=(0, 1))


def with_prior(prior):
    """A model with this prior, and its parameters."""
    model = dataclasses.replace(small_vae(prior.latent_size, 4, (8, 8, 1)), prior=prior)
    params = steps.initial_state(make_settings(model), seed=0).params
    return model, jax.tree.map(lambda leaf: 1.2 * leaf, params)


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


def kl_of(model, params, posterior, sample):
    return vae.apply(model, params, method=lambda model: posterior.kl(model.prior(BATCH), sample))


def test_the_standard_normal_is_scipys():
    prior = StandardNormal(latent_size=4)
    expected = scipy.stats.norm.logpdf(LATENTS).sum(1)
    np.testing.assert_allclose(prior.log_density(LATENTS), expected, rtol=1e-5)
    samples = prior.sample(jax.random.key(0), 20_000)
    assert samples.shape == (20_000, 4)
    assert has_distribution(samples, "norm")


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
def test_the_density_of_a_flow_in_a_plane_integrates_to_one():
    flow = CouplingFlow(2, num_layers=6, hidden_size=8)
    edge = np.linspace(-20.0, 20.0, 401, dtype=np.float32)
    points = np.stack(np.meshgrid(edge, edge), -1).reshape(-1, 2)
    density = apply(flow, bent(flow, scale=0.2), points, method="log_density")
    density = np.exp(np.asarray(density, np.float64))
    assert density.sum() * (edge[1] - edge[0]) ** 2 == pytest.approx(1.0, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e3, -1e3])
def test_gradients_of_a_flow_are_finite_far_out(size):
    loss = lambda p, z: apply(FLOW, p, z, method="log_density").sum()  # noqa: E731
    for gradients in jax.grad(loss, argnums=(0, 1))(bent(FLOW), jnp.full((3, 4), size)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_a_flow_begins_as_the_standard_normal_and_has_its_losses():
    plain = small_vae(2, 4, (8, 8, 1))
    model, params = with_prior(CouplingFlow(2, 3, 8))
    posterior = apply(plain, params, BATCH, method="posterior")
    sample = posterior.sample(jax.random.key(4), 4)
    weights, expected = (
        apply(m, params, BATCH, sample, method="log_weights_of")[0] for m in (model, plain)
    )
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="no closed form"):
        training_loss(Objective(free_bits=0.1), model, params, BATCH, jax.random.key(0), None, 0)
    # The sample of a narrow posterior is rounded to its mean; log q comes from the noise.
    narrow = Posterior(np.full((1, 2), 100.0, np.float32), np.full((1, 2), -40.0, np.float32))
    key = jax.random.key(0)
    noise = jax.random.normal(key, (1, 2))
    expected = scipy.stats.norm.logpdf(noise).sum() + 40.0 - 2.0 * scipy.stats.norm.logpdf(100.0)
    for path_gradient in (False, True):
        sample = narrow.sample(key, path_gradient=path_gradient)
        np.testing.assert_array_equal(sample.latents, 100.0)
        np.testing.assert_allclose(kl_of(model, params, narrow, sample), [expected], rtol=1e-6)


@pytest.fixture(scope="module")
def documented_prior():
    """The class that docs/extending.md shows for a prior of one's own."""
    return laplace.documented_prior()


def laplace_kl(mean, log_var):
    """KL of Gaussians from Laplace distributions of scale 1, each by itself, by quadrature."""

    def kl(mean, deviation):
        q, p = scipy.stats.norm(mean, deviation), scipy.stats.laplace()
        integrand = lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x))  # noqa: E731
        limits = (mean - 12.0 * deviation, mean + 12.0 * deviation)
        points = [0.0] if limits[0] < 0.0 < limits[1] else None
        return scipy.integrate.quad(integrand, *limits, points=points)[0]

    return np.vectorize(kl)(np.float64(mean), np.exp(0.5 * np.float64(log_var)))


@pytest.mark.slow
def test_the_documented_prior_is_scipys(documented_prior):
    prior = documented_prior(latent_size=4)
    assert isinstance(prior, ClosedFormPrior)
    assert not isinstance(prior, FlowPrior)
    expected = scipy.stats.laplace.logpdf(LATENTS).sum(1)
    np.testing.assert_allclose(prior.log_density(LATENTS), expected, rtol=1e-5)
    assert has_distribution(prior.sample(jax.random.key(0), 20_000), "laplace")
    expected = laplace_kl(MEAN, LOG_VAR)
    each = prior.kl_per_dimension(MEAN, LOG_VAR)
    np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prior.kl(MEAN, LOG_VAR), expected.sum(1), rtol=1e-5)


@pytest.mark.slow
def test_the_documented_prior_is_used_by_the_objective(documented_prior, monkeypatch):
    monkeypatch.setitem(PRIORS, "laplace", documented_prior)
    decoder = {"dense_sizes": (), "grid_channels": 1, "filters": (2,), "strides": (4,)}
    encoder = {"kind": "dense", "dense_sizes": (16,)}
    prior = {"kind": "laplace", "num_components": 5}
    model = create_vae(4, encoder, decoder, (8, 8, 1), prior=prior)
    assert model.prior == documented_prior(4)
    settings = make_settings(model, optax.adam(0.01), batch_size=3)
    state = steps.initial_state(settings, seed=0)
    params, key = state.params, jax.random.key(1)
    posterior = apply(model, params, BATCH, method="posterior")
    kl = laplace_kl(posterior.mean, posterior.log_var)
    statistics = latent_statistics.kl_per_dimension(
        model.prior, jax.tree.map(np.asarray, posterior)
    )
    np.testing.assert_allclose(statistics, kl.mean(0), rtol=1e-4)
    free = float(np.median(kl.mean(0)))
    for objective, expected in (
        (Objective(kl_weight=0.5), 0.5 * kl.sum(1).mean()),
        (Objective(free_bits=free), np.maximum(free, kl.mean(0)).sum()),
    ):
        loss, (terms, _) = loss_of(objective, model, params, BATCH, key, None, 0)
        np.testing.assert_allclose(terms["kl"], kl.sum(1), rtol=1e-4)
        np.testing.assert_allclose(loss - terms["reconstruction"].mean(), expected, atol=2e-3)
    # Importance weights, and the bound that is made of them.
    sample = posterior.sample(key, 3)
    weights, log_likelihood = apply(model, params, BATCH, sample, method="log_weights_of")
    log_prior = scipy.stats.laplace.logpdf(sample.latents).sum(-1)
    np.testing.assert_allclose(weights, log_likelihood + log_prior - sample.log_density, rtol=1e-5)
    objective = Objective(num_importance_samples=3)
    loss, _ = loss_of(objective, model, params, BATCH, key, None, 0)
    expected = np.log(3) - scipy.special.logsumexp(weights, axis=0).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    evaluate = functools.partial(jax.jit(evaluation_terms, static_argnums=(0, 1)), Objective())
    terms = evaluate(model, params, BATCH, jax.random.split(key, 3))
    np.testing.assert_allclose(terms["kl"], kl.sum(1), rtol=1e-4)
    # Generated images begin at samples of it, and training lowers the loss.
    assert has_distribution(generation.draw_latents(model, params, key, 20_000), "laplace")
    pixels = Batch(np.uint8(255 * BATCH.images))
    values = []
    for _ in range(40):
        state, metrics = train_step(settings, state, pixels)
        values.append(float(metrics.sums["loss"]))
    assert values[-1] < 0.9 * values[0]
