"""The objective's options: by hand, by numerical gradients, against each other."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.special

from tests.support.common import apply, make_settings, small_vae
from vae_jax.model import distributions
from vae_jax.model.objective import Objective, evaluation_terms, training_loss
from vae_jax.model.priors import CouplingFlow
from vae_jax.model.structs import Batch
from vae_jax.training import steps

RANDOM = np.random.default_rng(0)
PIXELS = (RANDOM.uniform(size=(5, 8, 8, 1)) < 0.2).astype(np.float32)
BATCH = Batch(PIXELS)
MODEL = small_vae(3, 4, (8, 8, 1))
SEVERAL = Objective(num_importance_samples=5)
compute = jax.jit(training_loss, static_argnums=(0, 1))


@pytest.fixture(scope="module")
def state():
    return steps.initial_state(make_settings(MODEL), seed=0)


def loss_of(objective, params, step=0, key=0):
    return compute(objective, MODEL, params, BATCH, jax.random.key(key), None, step)


def posterior_of(params):
    return apply(MODEL, params, BATCH, method="posterior")


@pytest.mark.slow
@pytest.mark.parametrize("free_bits", [0.0, 0.7])
def test_a_warmup_weighs_the_kl_with_or_without_free_bits(state, free_bits):
    objective = Objective(kl_weight=2.0, kl_warmup_steps=8, free_bits=free_bits)
    for step, weight in ((0, 0.0), (3, 0.75), (8, 2.0), (20, 2.0)):
        loss, (terms, numbers) = loss_of(objective, state.params, step)
        assert numbers == {"kl_weight": weight}
        kl = terms["kl"].mean()
        if free_bits:
            posterior = posterior_of(state.params)
            each = distributions.gaussian_kl_per_dimension(posterior.mean, posterior.log_var)
            kl = np.maximum(each.mean(0), free_bits).sum()
            assert kl > terms["kl"].mean()
        assert float(loss) == pytest.approx(float(terms["reconstruction"].mean() + weight * kl))
        # The terms of a step stay those of the plain bound.
        expected = terms["reconstruction"] + weight * terms["kl"]
        np.testing.assert_allclose(terms["loss"], expected, rtol=1e-6)


@pytest.mark.slow
def test_evaluation_is_of_the_bound_that_is_trained(state):
    keys = jax.random.split(jax.random.key(5), len(PIXELS))
    terms = jax.jit(evaluation_terms, static_argnums=(0, 1))(
        SEVERAL, MODEL, state.params, BATCH, keys
    )
    posterior = posterior_of(state.params)
    sample = posterior.sample(keys, 5)
    weights, log_likelihood = apply(MODEL, state.params, BATCH, sample, method="log_weights_of")
    expected = np.log(5) - scipy.special.logsumexp(weights, axis=0)
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(terms["reconstruction"], -log_likelihood.mean(0), rtol=1e-5)
    kl = distributions.gaussian_kl(posterior.mean, posterior.log_var)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-4)


@pytest.mark.slow
def test_gradients_through_samples_alone_have_the_same_mean_and_vary_less():
    """Those of the ELBO, and doubly reparameterized ones of five samples (Tucker et al. 2019)."""
    model = dataclasses.replace(MODEL, prior=CouplingFlow(3, 2, 4))
    params = steps.initial_state(make_settings(model), seed=0).params
    params = jax.tree.map(lambda leaf: 1.2 * leaf, params)
    keys = jax.random.split(jax.random.key(3), 300)

    def gradients(objective):
        @jax.jit
        def of_key(key):
            value_and_grad = jax.value_and_grad(training_loss, 2, has_aux=True)
            (loss, _), gradient = value_and_grad(objective, model, params, BATCH, key, None, 0)
            encoder, decoder = gradient["encoder"]["mean"], gradient["decoder"]["logits"]
            return loss, encoder["kernel"], decoder["bias"]

        return jax.lax.map(of_key, keys)

    for num_samples in (1, 5):
        plain, path = (
            gradients(Objective(num_importance_samples=num_samples, path_gradient=path_gradient))
            for path_gradient in (False, True)
        )
        np.testing.assert_allclose(path[0], plain[0], rtol=1e-6)
        np.testing.assert_allclose(path[2], plain[2], rtol=1e-4, atol=1e-5)
        difference = np.asarray(path[1] - plain[1])
        error = difference.std(0) / np.sqrt(len(keys))
        assert (np.abs(difference.mean(0)) < 4.5 * error + 1e-6).all()
        assert np.asarray(path[1]).std(0).sum() < 0.9 * np.asarray(plain[1]).std(0).sum()
