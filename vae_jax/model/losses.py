"""Formulas of losses and of estimates of log p(x): pure functions, in nats."""

import jax
import jax.numpy as jnp

from vae_jax.model import batch_axis
from vae_jax.model.structs import Terms


def negative_elbo(
    log_likelihood: jax.Array, kl: jax.Array, kl_weight: float | jax.Array = 1.0
) -> Terms:
    """Computes the negative evidence lower bound with one latent sample, per image.

    -ELBO = -log p(x | z) + kl_weight * KL(q(z | x) || p(z)),  z ~ q(z | x)

    Kingma and Welling 2014 (arXiv:1312.6114), equation 10 with L = 1; `kl_weight` is the
    beta of Higgins et al. 2017. Only at `kl_weight = 1` is the negated loss a lower bound
    of log p(x), and only where the first term is a likelihood.

    Takes log p(x | z) from a likelihood's `log_prob` and the KL from a prior's `kl`; returns
    "loss", "reconstruction" (-log p(x | z)) and "kl" (unweighted); each is `<float>[batch]`, nats
    per image.
    """
    reconstruction = -log_likelihood
    return {"loss": reconstruction + kl_weight * kl, "reconstruction": reconstruction, "kl": kl}


def free_bits_kl(kl_per_dimension: jax.Array, free_bits: float) -> jax.Array:
    """Sums the KL `<float>[batch, latent]` over dimensions, each at least its free nats: `[]`.

    sum_j max(free_bits, mean over the batch of KL_j)

    Kingma et al. 2016 (arXiv:1606.04934), section 5 and appendix C.8, each latent variable a
    group of its own. Nats per image.
    """
    return jnp.maximum(free_bits, batch_axis.mean(kl_per_dimension.mean(0))).sum()


def importance_weighted_bound(log_weights: jax.Array) -> jax.Array:
    """Computes the lower bound of log p(x) from k importance weights: `<float>[batch]`, nats.

    L_k = log (1 / k) sum_i w_i

    Burda et al. 2016 (arXiv:1509.00519), equation 8; for k = 1 the ELBO of one sample.
    The weights are `<float>[k, batch]`, log p(x | z) + log p(z) - log q(z | x), or those of
    `balance_heuristic` if some samples are from the prior.
    """
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(len(log_weights))


def balance_heuristic(
    log_ratios: jax.Array, log_likelihoods: jax.Array, prior_fraction: float
) -> jax.Array:
    """Computes log-weights `<float>[...]` of samples of which a fraction f is from the prior.

    w = p(x | z) p(z) / (f p(z) + (1 - f) q(z | x)) = p(x | z) / (f + (1 - f) p(x | z) / r)

    Takes log r, r = p(x | z) p(z) / q(z | x), and log p(x | z). The mean of all weights is p(x)
    without bias, and none exceeds p(x | z) / f, however badly q(z | x) fits: a defensive mixture
    (Hesterberg 1995, Technometrics 37) with the balance heuristic (Veach and Guibas 1995,
    SIGGRAPH). With f = 0 a weight is r.
    """
    log_q_over_prior = log_likelihoods - log_ratios
    log_mixture = jnp.logaddexp(
        jnp.log(prior_fraction), jnp.log1p(-prior_fraction) + log_q_over_prior
    )
    # Not NaN where p(x | z) is 0.
    return jnp.where(log_likelihoods == -jnp.inf, -jnp.inf, log_likelihoods - log_mixture)


def effective_sample_size(log_weights: jax.Array) -> jax.Array:
    """Computes (sum of w)^2 / (sum of w^2), Kong 1992: `<float>[batch]`, from 1 to k.

    The weights are `<float>[k, batch]`.
    """
    log_sum = jax.nn.logsumexp(log_weights, axis=0)
    return jnp.exp(2.0 * log_sum - jax.nn.logsumexp(2.0 * log_weights, axis=0))
