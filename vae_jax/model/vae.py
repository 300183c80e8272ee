"""The variational autoencoder: an encoder, a latent sample and a decoder."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vae_jax.model import distributions
from vae_jax.model.decoders import ConvTransposeDecoder
from vae_jax.model.encoders import DenseEncoder, LSTMEncoder
from vae_jax.model.priors import StandardNormal


@struct.dataclass
class VAEOutput:
    """What one pass through the autoencoder gives.

    Attributes:
      logits: `<float>[batch, 28, 28]`, Bernoulli logits of the reconstruction.
      mean: `<float>[batch, latent]`, mean of q(z | x).
      log_var: `<float>[batch, latent]`, log-variance of q(z | x).
      latents: `<float>[batch, latent]`, the sample that was decoded.
    """

    logits: jax.Array
    mean: jax.Array
    log_var: jax.Array
    latents: jax.Array


class VAE(nn.Module):
    """A variational autoencoder of 28 x 28 images.

    Attributes:
      encoder: maps images to `(mean, log_var)`.
      decoder: maps latents to logits.
      prior: p(z), with a `log_density` and a `sample`.
    """

    encoder: nn.Module
    decoder: nn.Module
    prior: StandardNormal

    def __call__(
        self, images: jax.Array, sample_key: jax.Array, dropout_key: jax.Array | None = None
    ) -> VAEOutput:
        """Encodes images, draws one latent vector for each and decodes it.

        Args:
          images: `<float>[batch, 28, 28]`, pixels in [0, 1].
          sample_key: key of the latent sample.
          dropout_key: key of the decoder's dropout; without one dropout is off.
        """
        mean, log_var = self.encode(images)
        latents = distributions.sample_gaussian(sample_key, mean, log_var)
        logits = self.decode(latents, dropout_key)
        return VAEOutput(logits=logits, mean=mean, log_var=log_var, latents=latents)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps `<float>[batch, 28, 28]` to `(mean, log_var)`, each `<float>[batch, latent]`."""
        return self.encoder(images)

    def decode(self, latents: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Maps `<float>[batch, latent]` to logits, `<float>[batch, 28, 28]`."""
        return self.decoder(latents, dropout_key)

    def log_weights(
        self,
        images: jax.Array,
        mean: jax.Array,
        log_var: jax.Array,
        latents: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Importance weights of latent samples, log p(x | z) + log p(z) - log q(z | x).

        Args:
          images: `<float>[batch, 28, 28]`, pixels in [0, 1].
          mean: `<float>[batch, latent]`, of q(z | x).
          log_var: `<float>[batch, latent]`, of q(z | x).
          latents: `<float>[num_samples, batch, latent]`, drawn from q(z | x).
          dropout_key: key of the decoder's dropout; without one dropout is off.

        Returns:
          `(log_weights, log_likelihood)`, the latter log p(x | z), each
          `<float>[num_samples, batch]`, nats.
        """

        def flat(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jnp.broadcast_to(array, (len(latents), *shape)).reshape(-1, *shape[1:])

        z = flat(latents, latents.shape[1:])
        log_likelihood = distributions.bernoulli_log_likelihood(
            self.decode(z, dropout_key), flat(images, images.shape)
        )
        log_weights = (
            log_likelihood
            + self.prior.log_density(z)
            - distributions.gaussian_log_density(
                z, flat(mean, mean.shape), flat(log_var, log_var.shape)
            )
        )
        shape = latents.shape[:2]
        return log_weights.reshape(shape), log_likelihood.reshape(shape)

    def generate(self, key: jax.Array, num_images: int) -> jax.Array:
        """Decodes `num_images` latent vectors drawn from the prior.

        Returns:
          Pixel means, `<float>[num_images, 28, 28]`, in [0, 1].
        """
        return nn.sigmoid(self.decode(self.prior.sample(key, num_images)))


def create_vae(latent_size: int, encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> VAE:
    """Builds the model that the fields of a configuration describe.

    Args:
      latent_size: number of latent dimensions.
      encoder: `kind` ("lstm" or "dense") and the attributes of `LSTMEncoder` or `DenseEncoder`.
      decoder: those of `ConvTransposeDecoder`.

    Raises:
      ValueError: the encoder is of another kind.
    """
    module = {"lstm": LSTMEncoder, "dense": DenseEncoder}.get(encoder["kind"])
    if module is None:
        raise ValueError(f"encoder kind is {encoder['kind']!r}, must be 'lstm' or 'dense'")
    attributes = {name: encoder[name] for name in module.__annotations__ if name in encoder}
    return VAE(
        module(latent_size, **attributes),
        ConvTransposeDecoder(**decoder),
        StandardNormal(latent_size),
    )
