"""The priors against SciPy, and that the parts of the model ask them."""

import dataclasses
import math
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from tests.support.common import ROOT, apply, make_settings, small_vae, train_step
from vae_jax.evaluation import generation, latent_statistics
from vae_jax.model import distributions, vae
from vae_jax.model.objective import Objective, evaluation_terms, training_loss
from vae_jax.model.priors import PRIORS, ClosedFormPrior, FlowPrior, StandardNormal
from vae_jax.model.structs import Batch
from vae_jax.training import steps

RNG = np.random.RandomState(0)
MEAN, LOG_VAR, LATENTS = RNG.normal(size=(3, 5, 4)).astype(np.float32)
PRIOR = StandardNormal(latent_size=4)


def test_the_standard_normal_is_scipys():
    expected = scipy.stats.norm.logpdf(LATENTS).sum(1)
    np.testing.assert_allclose(PRIOR.log_density(LATENTS), expected, rtol=1e-5)
    samples = PRIOR.sample(jax.random.key(0), 20_000)
    assert samples.shape == (20_000, 4)
    assert scipy.stats.kstest(np.ravel(samples), "norm").pvalue > 1e-3


def test_its_kl_is_the_gaussians():
    expected = distributions.gaussian_kl(MEAN, LOG_VAR)
    np.testing.assert_array_equal(PRIOR.kl(MEAN, LOG_VAR), expected)
    each = PRIOR.kl_per_dimension(MEAN, LOG_VAR)
    np.testing.assert_allclose(each.sum(1), expected, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Shifted(StandardNormal):
    """N(3, I): a prior of one's own, which nothing but `create_vae` would have to know."""

    def log_density(self, latents):
        return super().log_density(latents - 3.0)

    def sample(self, key, num_samples):
        return super().sample(key, num_samples) + 3.0

    def kl_per_dimension(self, mean, log_var):
        return super().kl_per_dimension(mean - 3.0, log_var)

    def kl(self, mean, log_var):
        return super().kl(mean - 3.0, log_var)


def test_another_prior_is_asked_by_losses_bound_generation_and_statistics():
    plain = small_vae(4)
    model = dataclasses.replace(plain, prior=Shifted(4))
    state = steps.initial_state(make_settings(plain), seed=0)
    params, key = state.params, jax.random.key(1)
    batch = Batch(jnp.asarray(RNG.uniform(size=(3, 28, 28, 1)) < 0.2, jnp.float32))
    posterior = apply(plain, params, batch, method="posterior")
    shift = (9.0 / 2 * 4 - 3.0 * posterior.mean.sum(1)).mean()  # of the KL, by its formula
    compute = jax.jit(training_loss, static_argnums=(0, 1))
    for objective in (Objective(), Objective(free_bits=1e-6)):
        losses = [compute(objective, m, params, batch, key, None, 0)[0] for m in (plain, model)]
        np.testing.assert_allclose(losses[1] - losses[0], shift, rtol=1e-4)
    sample = posterior.sample(key, 2)
    weights = [apply(m, params, batch, sample, method="log_weights_of")[0] for m in (plain, model)]
    z = sample.latents
    expected = scipy.stats.norm.logpdf(z, 3.0).sum(2) - scipy.stats.norm.logpdf(z).sum(2)
    np.testing.assert_allclose(weights[1] - weights[0], expected, rtol=1e-3, atol=1e-3)
    posterior = jax.tree.map(np.asarray, posterior)
    kl, plain_kl = (latent_statistics.kl_per_dimension(m.prior, posterior) for m in (model, plain))
    np.testing.assert_allclose(np.subtract(kl, plain_kl).sum(), shift, rtol=1e-4)
    samples = [generation.sample(m, params, key, 3) for m in (plain, model)]
    assert not np.allclose(*samples, atol=1e-3)


@pytest.fixture(scope="module")
def documented_prior():
    """The class that docs/extending.md shows for a prior of one's own."""
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [code] = [block for block in blocks if "class Laplace" in block]
    names = {"ClassVar": ClassVar, "dataclasses": dataclasses, "jax": jax, "jnp": jnp, "math": math}
    exec(code, names)
    return names["Laplace"]


def laplace_kl(mean, log_var):
    """KL of Gaussians from Laplace distributions of scale 1, each by itself, by quadrature."""

    def integrand(x, mean, deviation):
        log_q = scipy.stats.norm.logpdf(x, mean, deviation)
        return np.exp(log_q) * (log_q - scipy.stats.laplace.logpdf(x))

    def kl(mean, deviation):
        limits = (mean - 12.0 * deviation, mean + 12.0 * deviation)
        points = [0.0] if limits[0] < 0.0 < limits[1] else None
        return scipy.integrate.quad(integrand, *limits, args=(mean, deviation), points=points)[0]

    return np.vectorize(kl)(np.float64(mean), np.exp(0.5 * np.float64(log_var)))


def test_the_documented_prior_is_scipys(documented_prior):
    prior = documented_prior(latent_size=4)
    assert isinstance(prior, ClosedFormPrior)
    assert not isinstance(prior, FlowPrior)
    assert prior(Batch()) is prior
    expected = scipy.stats.laplace.logpdf(LATENTS).sum(1)
    np.testing.assert_allclose(prior.log_density(LATENTS), expected, rtol=1e-5)
    samples = prior.sample(jax.random.key(0), 20_000)
    assert scipy.stats.kstest(np.ravel(samples), "laplace").pvalue > 1e-3
    expected = laplace_kl(MEAN, LOG_VAR)
    each = prior.kl_per_dimension(MEAN, LOG_VAR)
    np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prior.kl(MEAN, LOG_VAR), expected.sum(1), rtol=1e-5)


def test_the_documented_prior_is_used_by_the_objective(documented_prior, monkeypatch):
    monkeypatch.setitem(PRIORS, "laplace", documented_prior)
    small = {"dense_sizes": (), "grid_channels": 1, "filters": (2,), "strides": (4,)}
    encoder = {"kind": "dense", "dense_sizes": (16,)}
    model = vae.create_vae(4, encoder, small, prior={"kind": "laplace", "num_components": 5})
    assert model.prior == documented_prior(4)
    settings = make_settings(model, optax.adam(0.01))
    state = steps.initial_state(settings, seed=0)
    params, key = state.params, jax.random.key(1)
    batch = Batch(jnp.asarray(RNG.uniform(size=(5, 28, 28, 1)) < 0.2, jnp.float32))
    posterior = apply(model, params, batch, method="posterior")
    kl = laplace_kl(posterior.mean, posterior.log_var)
    compute = jax.jit(training_loss, static_argnums=(0, 1))
    loss, (terms, _) = compute(Objective(kl_weight=0.5), model, params, batch, key, None, 0)
    np.testing.assert_allclose(terms["kl"], kl.sum(1), rtol=1e-4)
    np.testing.assert_allclose(
        loss, (terms["reconstruction"] + 0.5 * terms["kl"]).mean(), rtol=1e-6
    )
    free = float(np.median(kl.mean(0)))
    loss, (terms, _) = compute(Objective(free_bits=free), model, params, batch, key, None, 0)
    expected = np.maximum(free, kl.mean(0)).sum()
    assert expected > kl.mean(0).sum() + 0.01
    np.testing.assert_allclose(loss - terms["reconstruction"].mean(), expected, atol=2e-3)
    # Importance weights, and the bound that is made of them.
    sample = posterior.sample(key, 3)
    weights, log_likelihood = apply(model, params, batch, sample, method="log_weights_of")
    log_prior = scipy.stats.laplace.logpdf(sample.latents).sum(-1)
    np.testing.assert_allclose(weights, log_likelihood + log_prior - sample.log_density, rtol=1e-5)
    objective = Objective(num_importance_samples=3)
    loss, _ = compute(objective, model, params, batch, key, None, 0)
    expected = np.log(3) - scipy.special.logsumexp(weights, axis=0).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    evaluate = jax.jit(evaluation_terms, static_argnums=(0, 1))
    keys = jax.random.split(key, 5)
    np.testing.assert_allclose(
        evaluate(Objective(), model, params, batch, keys)["kl"], kl.sum(1), rtol=1e-4
    )
    # What is generated begins at samples of it, and training lowers the loss.
    latents = generation.draw_latents(model, params, key, 20_000)
    assert scipy.stats.kstest(latents.ravel(), "laplace").pvalue > 1e-3
    pixels = Batch(np.uint8(255 * batch.images))
    losses = []
    for _ in range(40):
        state, metrics = train_step(settings, state, pixels)
        losses.append(float(metrics.sums["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def test_without_its_closed_form_the_documented_prior_has_the_kl_of_samples(documented_prior):
    @dataclasses.dataclass(frozen=True)
    class Sampled:
        latent_size: int

        base_is_standard_normal: ClassVar = False
        is_learned: ClassVar = False
        __call__ = documented_prior.__call__
        log_density = documented_prior.log_density
        sample = documented_prior.sample

    plain = small_vae(4)
    closed, sampled = (
        dataclasses.replace(plain, prior=kind(4)) for kind in (documented_prior, Sampled)
    )
    params = steps.initial_state(make_settings(plain), seed=0).params
    batch = Batch(jnp.asarray(RNG.uniform(size=(3, 28, 28, 1)) < 0.2, jnp.float32))

    def terms_of(model, key):
        return training_loss(Objective(), model, params, batch, key, None, 0)[1][0]

    keys = jax.random.split(jax.random.key(2), 3000)
    draw = jax.jit(
        lambda keys: jax.lax.map(lambda key: terms_of(sampled, key), keys, batch_size=300)
    )
    drawn = {name: np.asarray(values, np.float64) for name, values in draw(keys).items()}
    expected = jax.jit(lambda key: terms_of(closed, key))(keys[0])
    np.testing.assert_allclose(drawn["reconstruction"][0], expected["reconstruction"], rtol=1e-5)
    error = drawn["kl"].std(0) / np.sqrt(len(keys))
    assert np.all(np.abs(drawn["kl"].mean(0) - expected["kl"]) < 4.0 * error)
    np.testing.assert_allclose(drawn["loss"], drawn["reconstruction"] + drawn["kl"], rtol=1e-5)
