"""The objective against its terms and an independent sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vae_jax.model import distributions, losses
from vae_jax.model.likelihoods import Bernoulli

RNG = np.random.RandomState(1)
LOGITS = RNG.normal(size=(4, 28, 28, 1)).astype(np.float32)
IMAGES = RNG.uniform(size=(4, 28, 28, 1)).astype(np.float32)
MEAN, LOG_VAR = RNG.normal(size=(2, 4, 6)).astype(np.float32)


def negative_elbo(logits, images, mean, log_var, *kl_weight):
    log_likelihood = Bernoulli().log_prob(logits, images)
    return losses.negative_elbo(
        log_likelihood, distributions.gaussian_kl(mean, log_var), *kl_weight
    )


@pytest.mark.parametrize("kl_weight", [0.0, 1.0, 2.5])
def test_negative_elbo_equals_an_independent_sum(kl_weight):
    terms = negative_elbo(LOGITS, IMAGES, MEAN, LOG_VAR, kl_weight)
    p = scipy.special.expit(LOGITS.astype(np.float64))
    cross_entropy = -(scipy.special.xlogy(IMAGES, p) + scipy.special.xlogy(1 - IMAGES, 1 - p))
    variance = np.exp(LOG_VAR.astype(np.float64))
    kl = 0.5 * (variance + MEAN**2 - 1 - LOG_VAR).sum(1)
    np.testing.assert_allclose(terms["reconstruction"], cross_entropy.sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(
        terms["loss"], cross_entropy.sum((1, 2, 3)) + kl_weight * kl, rtol=1e-5
    )


def test_the_kl_weight_defaults_to_one():
    terms = negative_elbo(LOGITS, IMAGES, MEAN, LOG_VAR)
    np.testing.assert_allclose(terms["loss"], terms["reconstruction"] + terms["kl"], rtol=1e-6)


def test_a_better_reconstruction_has_a_lower_loss():
    exact = scipy.special.logit(np.clip(IMAGES, 1e-6, 1 - 1e-6))
    best = negative_elbo(exact, IMAGES, MEAN, LOG_VAR)
    other = negative_elbo(LOGITS, IMAGES, MEAN, LOG_VAR)
    assert np.all(best["loss"] < other["loss"])


def test_finite_values_and_gradients_at_extremes():
    logits = jnp.where(LOGITS > 0, 1e4, -1e4)
    log_var = jnp.where(LOG_VAR > 0, 50.0, -50.0)

    def total(logits, mean, log_var):
        return negative_elbo(logits, IMAGES, mean, log_var)["loss"].sum()

    value, gradients = jax.value_and_grad(total, (0, 1, 2))(logits, MEAN, log_var)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
