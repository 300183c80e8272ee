"""Training objectives: pure functions that return one term per example, in nats."""

import jax
from flax import struct

from vae_jax import distributions


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
