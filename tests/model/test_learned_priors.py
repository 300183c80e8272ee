"""Priors with parameters: densities against SciPy, KL of samples, gradients through samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tests.support.common import apply, make_settings, small_vae
from vae_jax.model import distributions, vae
from vae_jax.model.coupling_flow import CouplingFlow
from vae_jax.model.objective import Objective, training_loss
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import GaussianMixture
from vae_jax.model.structs import Batch
from vae_jax.model.vae import create_vae
from vae_jax.training import steps

RANDOM = np.random.default_rng(0)
BATCH = Batch(jnp.asarray(RANDOM.uniform(size=(3, 28, 28, 1)) < 0.2, jnp.float32))


def make_model(prior):
    model = dataclasses.replace(small_vae(2), prior=prior)
    params = steps.initial_state(make_settings(model), seed=0).params
    return model, jax.tree.map(lambda leaf: 1.2 * leaf, params)


def log_prior(model, latents):
    """The log-density of the prior, a method for `apply`."""
    return model.prior(BATCH).log_density(latents)


def test_a_mixture_is_scipys():
    params = {
        "mean": RANDOM.normal(size=(4, 3)).astype(np.float32),
        "log_var": RANDOM.normal(size=(4, 3)).astype(np.float32),
        "logits": RANDOM.normal(size=4).astype(np.float32),
    }
    prior, latents = GaussianMixture(3, 4), RANDOM.normal(size=(6, 3)).astype(np.float32)
    scale = np.exp(0.5 * params["log_var"])
    each = scipy.stats.norm(params["mean"], scale).logpdf(latents[:, None]).sum(-1)
    expected = scipy.special.logsumexp(each + scipy.special.log_softmax(params["logits"]), axis=1)
    found = apply(prior, params, latents, method="log_density")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    samples = prior.apply({"params": params}, jax.random.key(0), 20_000, method="sample")
    weights = scipy.special.softmax(params["logits"])
    for axis in range(3):
        cdf = lambda x, axis=axis: (  # noqa: E731
            scipy.stats.norm(params["mean"][:, axis], scale[:, axis]).cdf(x[:, None]) @ weights
        )
        assert scipy.stats.kstest(np.asarray(samples)[:, axis], cdf).pvalue > 1e-3


def test_a_vamp_prior_is_the_mixture_of_its_pseudo_inputs_posteriors():
    model = create_vae(
        2,
        {"kind": "dense", "dense_sizes": (16,)},
        {"dense_sizes": (), "grid_channels": 1, "filters": (2,), "strides": (4,)},
        prior={"kind": "vamp", "num_components": 5},
    )
    params = steps.initial_state(make_settings(model), seed=0).params
    assert params["prior"].keys() == {"images"}  # the encoder is the model's own
    inputs = scipy.special.expit(params["prior"]["images"])
    posterior = apply(model, params, Batch(inputs), method="posterior")
    mean, log_var = np.asarray(posterior.mean), np.asarray(posterior.log_var)
    latents = RANDOM.normal(size=(6, 2)).astype(np.float32)
    each = scipy.stats.norm(mean, np.exp(0.5 * log_var)).logpdf(latents[:, None]).sum(-1)
    expected = scipy.special.logsumexp(each, axis=1) - np.log(5)
    found = apply(model, params, latents, method=log_prior)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    samples = vae.apply(
        model, params, method=lambda model: model.prior(BATCH).sample(jax.random.key(0), 2000)
    )
    np.testing.assert_allclose(np.asarray(samples).mean(0), mean.mean(0), atol=0.15)
    # Of data, the images are as they are, and no gradient reaches them.
    data = dataclasses.replace(model, prior=dataclasses.replace(model.prior, pseudo_inputs="data"))
    given = {**params, "prior": {"images": inputs}}
    np.testing.assert_allclose(apply(data, given, latents, method=log_prior), found, rtol=1e-6)
    gradient = jax.grad(lambda p: apply(data, p, latents, method=log_prior).sum())(given)
    assert not gradient["prior"]["images"].any()
    assert gradient["encoder"]["mean"]["kernel"].any()


def test_a_flow_that_is_not_bent_has_the_losses_of_the_standard_normal():
    plain = small_vae(2)
    model, params = make_model(CouplingFlow(2, 3, 8))
    posterior = apply(plain, params, BATCH, method="posterior")
    sample = posterior.sample(jax.random.key(4), 4)
    weights, expected = (
        apply(m, params, BATCH, sample, method="log_weights_of")[0] for m in (model, plain)
    )
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    # Its KL is that of samples: right on average.
    kl = jax.vmap(lambda one: kl_of(model, params, posterior, one))(
        posterior.sample(jax.random.key(5), 20_000)
    )
    error = kl.std(0) / np.sqrt(len(kl))
    difference = kl.mean(0) - kl_of(plain, params, posterior, sample[0])
    assert (np.abs(difference) < 4.0 * error + 1e-5).all()


def kl_of(model, params, posterior, sample):
    """The KL of posteriors from a model's prior."""
    return vae.apply(model, params, method=lambda model: posterior.kl(model.prior(BATCH), sample))


def test_a_very_narrow_posterior_has_its_kl():
    """The sample is rounded to its mean; log q comes from the noise."""
    model, params = make_model(CouplingFlow(2, 3, 8))
    posterior = Posterior(np.full((1, 2), 100.0, np.float32), np.full((1, 2), -40.0, np.float32))
    key = jax.random.key(0)
    noise = jax.random.normal(key, (1, 2))
    expected = (
        scipy.stats.norm.logpdf(noise).sum() + 40.0 - scipy.stats.norm.logpdf([100.0] * 2).sum()
    )
    for path_gradient in (False, True):
        sample = posterior.sample(key, path_gradient=path_gradient)
        np.testing.assert_array_equal(sample.latents, 100.0)
        np.testing.assert_allclose(kl_of(model, params, posterior, sample), [expected], rtol=1e-6)


def gradients_of_kl(mean, log_var, path_gradient, num=50_000):
    """Of log q - log N(z; 0, 1), one for each noise: `[num, 2]`."""

    def kl(parameters, noise):
        m, v = parameters[:1, None], parameters[1:, None]
        z = distributions.reparameterize(m, v, noise)
        log_q = distributions.log_density_of_sample(z, v, noise, path_gradient)
        return (log_q - distributions.gaussian_log_density(z, 0.0 * m, 0.0 * v))[0]

    noise = jnp.asarray(np.random.default_rng(1).normal(size=(num, 1, 1)), jnp.float32)
    parameters = jnp.array([mean, log_var])
    return np.asarray(jax.vmap(jax.grad(kl), in_axes=(None, 0))(parameters, noise))


@pytest.mark.parametrize("path_gradient", [False, True])
def test_gradients_through_samples_have_the_same_mean(path_gradient):
    mean, log_var = 0.7, -0.8
    gradients = gradients_of_kl(mean, log_var, path_gradient)
    expected = [mean, 0.5 * (np.exp(log_var) - 1.0)]  # of the closed form
    error = gradients.std(0) / np.sqrt(len(gradients))
    assert (np.abs(gradients.mean(0) - expected) < 4.0 * error).all()


def test_gradients_through_samples_vanish_at_the_optimum():
    np.testing.assert_allclose(gradients_of_kl(0.0, 0.0, True, 100), 0.0, atol=1e-6)
    assert gradients_of_kl(0.0, 0.0, False, 100).std(0).max() > 0.5


@pytest.mark.slow
def test_doubly_reparameterized_gradients_have_the_same_mean_and_vary_less():
    """Of the bound of five samples: Tucker et al. 2019, equation 8."""
    model, params = make_model(CouplingFlow(2, 2, 4))
    keys = jax.random.split(jax.random.key(3), 600)

    def gradient(path_gradient):
        objective = Objective(num_importance_samples=5, path_gradient=path_gradient)

        def of_key(key):
            loss = lambda p: training_loss(objective, model, p, BATCH, key, None, 0)[0]  # noqa: E731
            value, gradient = jax.value_and_grad(loss)(params)
            heads = gradient["encoder"]
            flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(heads)])
            decoder = jnp.concatenate([x.ravel() for x in jax.tree.leaves(gradient["decoder"])])
            return value, flat[-40:], decoder[-20:]

        return jax.jit(lambda keys: jax.lax.map(of_key, keys))(keys)

    (plain_loss, plain, plain_decoder), (loss, paths, decoder) = map(gradient, (False, True))
    np.testing.assert_array_equal(loss, plain_loss)
    np.testing.assert_allclose(decoder, plain_decoder, rtol=1e-4, atol=1e-5)
    difference = np.asarray(paths - plain)
    error = difference.std(0) / np.sqrt(len(keys))
    assert (np.abs(difference.mean(0)) < 4.5 * error + 1e-6).all()
    assert np.asarray(paths).std(0).sum() < 0.8 * np.asarray(plain).std(0).sum()


def test_scaled_gradients():
    gradient = jax.grad(lambda x: (distributions.scale_gradient(x, 3.0) ** 2).sum())
    np.testing.assert_array_equal(gradient(jnp.array([1.0, 2.0])), [6.0, 12.0])


def test_a_prior_without_dimensions_has_no_free_bits():
    model, params = make_model(CouplingFlow(2, 2, 4))
    with pytest.raises(ValueError, match="no closed form for each latent dimension"):
        training_loss(Objective(free_bits=0.1), model, params, BATCH, jax.random.key(0), None, 0)
