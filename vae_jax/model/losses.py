"""Formulas of training losses: pure functions, in nats."""

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


def linear_warmup(step: int | jax.Array, num_steps: int) -> jax.Array:
    """Computes the factor of a KL weight after some steps: `step / num_steps`, at most 1.

    Bowman et al. 2016 (arXiv:1511.06349), section 3.1; linear as in Sønderby et al. 2016
    (arXiv:1602.02282).
    """
    return jnp.minimum(1.0, jnp.float32(step) / num_steps)


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
    The weights are `<float>[k, batch]`, log p(x | z) + log p(z) - log q(z | x).
    """
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(len(log_weights))
