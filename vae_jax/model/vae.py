"""The variational autoencoder: the questions that everything else asks of a model.

`posterior(batch)`, `prior(batch)`, `decode(latents, batch)`, `log_likelihood(latents, batch)` and
`log_weights(batch, key, num_samples)`. What travels between them is in `structs.py` and
`posterior.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.model.decoders import DECODERS
from vae_jax.model.encoders import ENCODERS
from vae_jax.model.factory import build
from vae_jax.model.likelihoods import LIKELIHOODS, Likelihood
from vae_jax.model.posterior import LatentSample, Posterior
from vae_jax.model.priors import Prior, create_prior
from vae_jax.model.structs import Batch

# A module's parameters, as Flax keeps them: nested dictionaries of arrays.
Params = dict[str, Any]


def apply(
    module: nn.Module, params: Params, *arguments: Any, method: str | Callable | None = None
) -> Any:
    """Calls a method of a module, `__call__` by default, with these parameters.

    Args:
      module: the module.
      params: its parameters.
      *arguments: of the method.
      method: its name, or a function of the module with its parameters and of the arguments.
    """
    return module.apply({"params": params}, *arguments, method=method)


class VAE(nn.Module):
    """A variational autoencoder of images.

    Attributes:
      encoder: maps a batch to its posterior.
      decoder: maps latents to the parameters of the likelihood, for every pixel.
      prior: p(z); `prior(batch)` is the prior of a batch.
      likelihood: p(x | z), given the decoder's outputs.
      image_shape: `(height, width, channels)` of an image.
      num_classes: of the labels that encoder and decoder are given beside images and latents; 0 for
        a model without labels.
    """

    encoder: nn.Module
    decoder: nn.Module
    prior: Prior
    likelihood: Likelihood
    image_shape: tuple[int, int, int]
    num_classes: int = 0

    def setup(self) -> None:
        """Makes the parameters that belong to neither encoder nor decoder."""
        if self.likelihood.learns_scale:
            zeros = nn.initializers.zeros
            self.raw_scale = self.param("raw_scale", zeros, self.image_shape[-1:])

    def __call__(self, batch: Batch, key: jax.Array) -> jax.Array:
        """Encodes images, draws one latent vector for each and decodes it; makes all parameters.

        Args:
          batch: images, intensities in [0, 1].
          key: key of the latent sample.

        Returns:
          `<float>[batch, height, width, outputs]`, parameters of the likelihood.
        """
        latents = self.posterior(batch).sample(key).latents
        outputs = self.decode(latents, batch)
        if self.is_initializing() and isinstance(self.prior, nn.Module):
            self.prior(batch).log_density(latents)
        return outputs

    def posterior(self, batch: Batch) -> Posterior:
        """Computes q(z | x) of images, intensities in [0, 1]."""
        return self.encoder(batch)

    def decode(
        self, latents: jax.Array, batch: Batch, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Maps latents to the parameters of p(x | z).

        Args:
          latents: `<float>[batch, latent]`.
          batch: what is known of the images beside them; its images are not looked at.
          dropout_key: key of the decoder's dropout; without one dropout is off.

        Returns:
          `<float>[batch, height, width, outputs]`.
        """
        outputs = self.decoder(latents, batch, dropout_key)
        if not self.likelihood.learns_scale:
            return outputs
        return jnp.concatenate([outputs, jnp.broadcast_to(self.raw_scale, outputs.shape)], axis=-1)

    def log_likelihood(
        self, latents: jax.Array, batch: Batch, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Computes log p(x | z) of images at `<float>[batch, latent]`: `<float>[batch]`, nats."""
        return self.likelihood.log_prob(self.decode(latents, batch, dropout_key), batch.images)

    def log_weights(self, batch: Batch, key: jax.Array, num_samples: int = 1) -> jax.Array:
        """Computes log importance weights, log p(x | z) + log p(z) - log q(z | x), of new samples.

        Args:
          batch: images, intensities in [0, 1].
          key: of the samples: one key, or `<key>[batch]`.
          num_samples: samples of q(z | x) for each image.

        Returns:
          `<float>[num_samples, batch]`, nats.
        """
        return self.log_weights_of(batch, self.posterior(batch).sample(key, num_samples))[0]

    def log_weights_of(
        self, batch: Batch, sample: LatentSample, dropout_key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the log importance weights of given samples.

        Args:
          batch: images, intensities in [0, 1].
          sample: of their posteriors, `[num_samples, batch]`.
          dropout_key: key of the decoder's dropout; without one dropout is off.

        Returns:
          `(log_weights, log_likelihood)`, the latter log p(x | z), each
          `<float>[num_samples, batch]`, nats.
        """
        shape = sample.log_density.shape
        copies = batch.repeat(shape[0])
        flat = sample.latents.reshape(-1, sample.latents.shape[-1])
        log_likelihood = self.log_likelihood(flat, copies, dropout_key)
        log_prior = self.prior(copies).log_density(flat)
        log_weights = log_likelihood + log_prior - sample.log_density.reshape(-1)
        return log_weights.reshape(shape), log_likelihood.reshape(shape)


def create_vae(
    latent_size: int,
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
    image_shape: Sequence[int] = (28, 28, 1),
    likelihood: str = "bernoulli",
    prior: Mapping[str, Any] | None = None,
    num_classes: int = 0,
) -> VAE:
    """Builds the model that the fields of a configuration describe.

    Args:
      latent_size: number of latent dimensions.
      encoder: `kind`, a name in `ENCODERS`, and the attributes of that encoder.
      decoder: `kind`, a name in `DECODERS`, "conv_transpose" by default, and the attributes of that
        decoder, but for the shape of its outputs.
      image_shape: `(height, width, channels)` of an image.
      likelihood: a name in `LIKELIHOODS`.
      prior: `kind`, a name in `PRIORS`, and the attributes of that prior; the standard normal if
        None.
      num_classes: of the labels that the model is given beside images; 0 for a model without.

    Raises:
      ValueError: a kind or an attribute is unknown.
    """
    if likelihood not in LIKELIHOODS:
        allowed = ", ".join(LIKELIHOODS)
        raise ValueError(f"likelihood kind is {likelihood!r}, must be one of {allowed}")
    height, width, channels = image_shape
    shape = (height, width, channels)
    pixels = LIKELIHOODS[likelihood]()
    known = {
        "latent_size": latent_size,
        "output_shape": (height, width, channels * pixels.num_outputs),
        "num_classes": num_classes,
    }
    encoder_module = build("encoder", ENCODERS, encoder, known)
    return VAE(
        encoder=encoder_module,
        decoder=build("decoder", DECODERS, {"kind": "conv_transpose", **decoder}, known),
        prior=create_prior(
            prior or {"kind": "standard_normal"}, latent_size, encoder_module, shape
        ),
        likelihood=pixels,
        image_shape=shape,
        num_classes=num_classes,
    )
