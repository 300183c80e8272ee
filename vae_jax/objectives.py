"""Training objectives other than the plain negative ELBO: KL warm-up, free bits, many samples."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax import distributions, losses
from vae_jax.losses import NegativeElbo
from vae_jax.vae import VAE


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised; as it stands, the negative ELBO.

    Attributes:
      kl_weight: weight of the KL term.
      kl_warm_up_steps: steps over which that weight grows from 0; 0 for none.
      free_bits: KL in nats, on average over a batch, below which a latent variable costs nothing
        more or less.
      num_importance_samples: latent samples for each image; with more than one, the negative
        importance-weighted bound, for which the weight is 1 and there are no free bits.
    """

    kl_weight: float = 1.0
    kl_warm_up_steps: int = 0
    free_bits: float = 0.0
    num_importance_samples: int = 1


NEGATIVE_ELBO = Objective()


def training_loss(
    objective: Objective,
    model: VAE,
    params: Any,
    pixels: jax.Array,
    sample_key: jax.Array,
    dropout_key: jax.Array,
    step: jax.Array,
) -> tuple[jax.Array, NegativeElbo]:
    """The scalar to minimise, in nats per image, and its terms for each image.

    Args:
      objective: what to minimise.
      model: the autoencoder.
      params: its parameters.
      pixels: `<float>[batch, 28, 28]`.
      sample_key: key of the latent samples.
      dropout_key: key of the decoder's dropout.
      step: `<int32>[]`, how many steps were taken before.
    """
    if objective.num_importance_samples > 1:
        return _importance_weighted_loss(
            objective.num_importance_samples, model, params, pixels, sample_key, dropout_key
        )
    kl_weight: float | jax.Array = objective.kl_weight
    if objective.kl_warm_up_steps:
        kl_weight = kl_weight * losses.warm_up(step, objective.kl_warm_up_steps)
    output = model.apply({"params": params}, pixels, sample_key, dropout_key)
    terms = losses.negative_elbo(output.logits, pixels, output.mean, output.log_var, kl_weight)
    if not objective.free_bits:
        return terms.loss.mean(), terms
    kl = losses.free_bits_kl(output.mean, output.log_var, objective.free_bits)
    return terms.reconstruction.mean() + kl_weight * kl, terms


def _importance_weighted_loss(
    num_samples: int,
    model: VAE,
    params: Any,
    pixels: jax.Array,
    sample_key: jax.Array,
    dropout_key: jax.Array,
) -> tuple[jax.Array, NegativeElbo]:
    """The negative bound; its terms' loss is that of each image."""
    variables = {"params": params}
    mean, log_var = model.apply(variables, pixels, method="encode")
    shape = (num_samples, *mean.shape)
    latents = distributions.sample_gaussian(
        sample_key, jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_var, shape)
    )
    log_weights, log_likelihood = model.apply(
        variables, pixels, mean, log_var, latents, dropout_key, method="log_weights"
    )
    loss = -losses.importance_weighted_bound(log_weights)
    terms = NegativeElbo(
        loss=loss,
        reconstruction=-log_likelihood.mean(0),
        kl=distributions.gaussian_kl(mean, log_var),
    )
    return loss.mean(), terms
