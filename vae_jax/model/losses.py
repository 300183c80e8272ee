"""Training objectives: pure functions that return one term per example, in nats."""

import jax
import jax.numpy as jnp
from flax import struct

from vae_jax.model import distributions


@struct.dataclass
class NegativeElbo:
    """A negative evidence lower bound and the two terms it is made of.

    Attributes:
      loss: `<float>[batch]`, reconstruction + kl_weight * kl.
      reconstruction: `<float>[batch]`, -log p(x | z) of the one latent sample.
      kl: `<float>[batch]`, KL(q(z | x) || p(z)), unweighted.
    """

    loss: jax.Array
    reconstruction: jax.Array
    kl: jax.Array

    def __getitem__(self, rows: slice) -> "NegativeElbo":
        """The terms of some of the images."""
        return jax.tree.map(lambda term: term[rows], self)


def negative_elbo(
    logits: jax.Array,
    images: jax.Array,
    mean: jax.Array,
    log_var: jax.Array,
    kl_weight: float | jax.Array = 1.0,
) -> NegativeElbo:
    """Negative evidence lower bound with one latent sample, per image.

    -ELBO = -log p(x | z) + kl_weight * KL(q(z | x) || N(0, I)),  z ~ q(z | x)

    Kingma and Welling 2014 (arXiv:1312.6114), equation 10 with L = 1; `kl_weight` is the
    beta of Higgins et al. 2017. Only at `kl_weight = 1` is the negated loss a lower bound
    of log p(x), and only on binary pixels is that a likelihood.

    Args:
      logits: `<float>[batch, ...]`, the decoder's output for z.
      images: `<float>[batch, ...]`, pixels in [0, 1], of the same shape.
      mean: `<float>[batch, latent]`, of q(z | x).
      log_var: `<float>[batch, latent]`, of q(z | x).
      kl_weight: weight of the KL term, at least 0.

    Returns:
      The loss and its two terms, each `[batch]`, nats per image.
    """
    reconstruction = -distributions.bernoulli_log_likelihood(logits, images)
    kl = distributions.gaussian_kl(mean, log_var)
    return NegativeElbo(
        loss=reconstruction + kl_weight * kl,
        reconstruction=reconstruction,
        kl=kl,
    )


def warm_up(step: int | jax.Array, num_steps: int) -> jax.Array:
    """What a KL weight is multiplied by: grows in even steps to 1, and stays there.

    Bowman et al. 2016 (arXiv:1511.06349), section 3.1; linear as in Sønderby et al. 2016
    (arXiv:1602.02282).

    Args:
      step: how many steps were taken before, from 0.
      num_steps: the step from which on it is 1, at least 1.

    Returns:
      `<float>[]`: `step / num_steps`, at most 1.
    """
    return jnp.minimum(1.0, step / num_steps)


def free_bits_kl(mean: jax.Array, log_var: jax.Array, free_bits: float) -> jax.Array:
    """KL from the standard normal, no latent variable counted below its free nats.

    sum_j max(free_bits, mean over the batch of KL_j)

    Kingma et al. 2016 (arXiv:1606.04934), section 5 and appendix C.8, each latent variable a
    group of its own.

    Args:
      mean: `<float>[batch, latent]`.
      log_var: `<float>[batch, latent]`.
      free_bits: in nats, at least 0.

    Returns:
      `<float>[]`, nats per image.
    """
    kl = distributions.gaussian_kl(mean.reshape(-1, 1), log_var.reshape(-1, 1))
    return jnp.maximum(free_bits, kl.reshape(mean.shape).mean(0)).sum()


def importance_weighted_bound(log_weights: jax.Array) -> jax.Array:
    """The lower bound of log p(x) that k importance weights give.

    L_k = log (1 / k) sum_i w_i

    Burda et al. 2016 (arXiv:1509.00519), equation 8; for k = 1 the ELBO of one sample.

    Args:
      log_weights: `<float>[k, batch]`, log p(x | z) + log p(z) - log q(z | x).

    Returns:
      `<float>[batch]`, nats per image.
    """
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(len(log_weights))
