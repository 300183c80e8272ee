"""The variational autoencoder: an encoder, a latent sample, a decoder, a prior, a likelihood."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vae_jax.model import distributions
from vae_jax.model.decoders import ConvTransposeDecoder
from vae_jax.model.encoders import ENCODERS
from vae_jax.model.likelihoods import LIKELIHOODS, Likelihood
from vae_jax.model.priors import Prior, create_prior

# A module's parameters, as Flax keeps them: nested dictionaries of arrays.
Params = dict[str, Any]


def apply(module: nn.Module, params: Params, *arguments: Any, method: str | None = None) -> Any:
    """Calls a method of a module, `__call__` by default, with these parameters."""
    return module.apply({"params": params}, *arguments, method=method)


@struct.dataclass
class VAEOutput:
    """What one pass through the autoencoder gives.

    Attributes:
      outputs: `<float>[batch, height, width, outputs]`, raw: what the likelihood takes.
      mean: `<float>[batch, latent]`, mean of q(z | x).
      log_var: `<float>[batch, latent]`, log-variance of q(z | x).
      noise: `<float>[batch, latent]`, standard normal, of which the sample was made.
      latents: `<float>[batch, latent]`, the sample that was decoded.
    """

    outputs: jax.Array
    mean: jax.Array
    log_var: jax.Array
    noise: jax.Array
    latents: jax.Array


class VAE(nn.Module):
    """A variational autoencoder of images.

    Attributes:
      encoder: maps images to `(mean, log_var)`.
      decoder: maps latents to what the likelihood takes.
      prior: p(z).
      likelihood: p(x | z), given the decoder's outputs.
      image_shape: `(height, width, channels)` of an image.
    """

    encoder: nn.Module
    decoder: nn.Module
    prior: Prior
    likelihood: Likelihood
    image_shape: tuple[int, int, int]

    def setup(self) -> None:
        """Makes the parameters that belong to neither encoder nor decoder."""
        if self.likelihood.learns_scale:
            zeros = nn.initializers.zeros
            self.raw_scale = self.param("raw_scale", zeros, self.image_shape[-1:])

    def __call__(
        self, images: jax.Array, sample_key: jax.Array, dropout_key: jax.Array | None = None
    ) -> VAEOutput:
        """Encodes images, draws one latent vector for each and decodes it.

        Args:
          images: `<float>[batch, height, width, channels]`, intensities in [0, 1].
          sample_key: key of the latent sample.
          dropout_key: key of the decoder's dropout; without one dropout is off.
        """
        mean, log_var = self.encode(images)
        noise = jax.random.normal(sample_key, mean.shape, mean.dtype)
        latents = distributions.reparameterize(mean, log_var, noise)
        outputs = self.decode(latents, dropout_key)
        if self.is_initializing() and isinstance(self.prior, nn.Module):
            self.log_prior(latents)  # makes its parameters
        return VAEOutput(outputs=outputs, mean=mean, log_var=log_var, noise=noise, latents=latents)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps `<float>[batch, height, width, channels]` to `(mean, log_var)`.

        Returns:
          Mean and log-variance of q(z | x), each `<float>[batch, latent]`.
        """
        return self.encoder(images)

    def decode(self, latents: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Maps `<float>[batch, latent]` to outputs, `<float>[batch, height, width, outputs]`."""
        outputs = self.decoder(latents, dropout_key)
        if not self.likelihood.learns_scale:
            return outputs
        return jnp.concatenate([outputs, jnp.broadcast_to(self.raw_scale, outputs.shape)], axis=-1)

    def log_prior(self, latents: jax.Array) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        return self.prior.log_density(latents)

    def sample_prior(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draws latent vectors from p(z): `<float>[num_samples, latent]`."""
        return self.prior.sample(key, num_samples)

    def to_base(self, latents: jax.Array) -> jax.Array:
        """Maps latent vectors `<float>[batch, latent]` to the prior's base space."""
        return self.prior.to_base(latents)

    def from_base(self, base: jax.Array) -> jax.Array:
        """Maps vectors of the prior's base space `<float>[batch, latent]` to latent vectors."""
        return self.prior.from_base(base)

    def kl(
        self,
        mean: jax.Array,
        log_var: jax.Array,
        noise: jax.Array,
        path_gradient: bool = False,
    ) -> jax.Array:
        """Computes KL(q(z | x) || p(z)), where there is a closed form; else of a sample.

        Args:
          mean: `<float>[batch, latent]`, of q(z | x).
          log_var: `<float>[batch, latent]`, of q(z | x).
          noise: `<float>[batch, latent]`, standard normal, which makes the sample.
          path_gradient: as for `distributions.log_density_of_sample`.

        Returns:
          `<float>[batch]`, nats per image; of a sample, log q(z | x) - log p(z).
        """
        if self.prior.has_closed_form:
            return self.prior.kl(mean, log_var)
        latents = distributions.reparameterize(mean, log_var, noise)
        log_q = distributions.log_density_of_sample(latents, log_var, noise, path_gradient)
        return log_q - self.log_prior(latents)

    def kl_per_dimension(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes the KL of each latent dimension: `<float>[batch, latent]`, nats.

        Raises:
          ValueError: the prior's KL has no closed form.
        """
        if not self.prior.has_closed_form:
            raise ValueError("the KL from this prior has no closed form for each latent dimension")
        return self.prior.kl_per_dimension(mean, log_var)

    def log_weights(
        self,
        images: jax.Array,
        mean: jax.Array,
        log_var: jax.Array,
        noise: jax.Array,
        dropout_key: jax.Array | None = None,
        gradient_scale: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Computes importance weights of samples, log p(x | z) + log p(z) - log q(z | x).

        Args:
          images: `<float>[batch, height, width, channels]`, intensities in [0, 1].
          mean: `<float>[batch, latent]`, of q(z | x).
          log_var: `<float>[batch, latent]`, of q(z | x).
          noise: `<float>[num_samples, batch, latent]`, standard normal; `mean` and `log_var` make
            samples of q(z | x) of it.
          dropout_key: key of the decoder's dropout; without one dropout is off.
          gradient_scale: `<float>[num_samples, batch]`, by which gradients through a sample are
            multiplied; none then pass through q's parameters in log q(z | x). None: no change.

        Returns:
          `(log_weights, log_likelihood)`, the latter log p(x | z), each
          `<float>[num_samples, batch]`, nats.
        """

        def flat(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jnp.broadcast_to(array, (len(noise), *shape)).reshape(-1, *shape[1:])

        flat_noise = flat(noise, noise.shape[1:])
        flat_log_var = flat(log_var, log_var.shape)
        flat_mean, path_gradient = flat(mean, mean.shape), gradient_scale is not None
        z = distributions.reparameterize(flat_mean, flat_log_var, flat_noise)
        if gradient_scale is not None:
            z = distributions.scale_gradient(z, gradient_scale.reshape(-1, 1))
        log_likelihood = self.likelihood.log_prob(
            self.decode(z, dropout_key), flat(images, images.shape)
        )
        log_weights = (
            log_likelihood
            + self.log_prior(z)
            - distributions.log_density_of_sample(z, flat_log_var, flat_noise, path_gradient)
        )
        shape = noise.shape[:2]
        return log_weights.reshape(shape), log_likelihood.reshape(shape)


def create_vae(
    latent_size: int,
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
    image_shape: Sequence[int] = (28, 28, 1),
    likelihood: str = "bernoulli",
    prior: Mapping[str, Any] | None = None,
) -> VAE:
    """Builds the model that the fields of a configuration describe.

    Args:
      latent_size: number of latent dimensions.
      encoder: `kind` ("lstm" or "dense") and the attributes of `LSTMEncoder` or `DenseEncoder`.
      decoder: those of `ConvTransposeDecoder`, but for the shape of the outputs.
      image_shape: `(height, width, channels)` of an image.
      likelihood: a name in `LIKELIHOODS`.
      prior: `kind`, a name in `PRIORS`, and the attributes of that prior; the standard normal if
        None.

    Raises:
      ValueError: the encoder, the likelihood or the prior is of another kind.
    """
    for noun, kind, kinds in (
        ("encoder", encoder["kind"], ENCODERS),
        ("likelihood", likelihood, LIKELIHOODS),
    ):
        if kind not in kinds:
            raise ValueError(f"{noun} kind is {kind!r}, must be one of {', '.join(kinds)}")
    height, width, channels = image_shape
    pixels = LIKELIHOODS[likelihood]()
    output_shape = (height, width, channels * pixels.num_outputs)
    module = ENCODERS[encoder["kind"]]
    attributes = {name: encoder[name] for name in module.__annotations__ if name in encoder}
    encoder_module = module(latent_size, **attributes)
    shape = (height, width, channels)
    prior = prior or {"kind": "standard_normal"}
    return VAE(
        encoder=encoder_module,
        decoder=ConvTransposeDecoder(output_shape=output_shape, **decoder),
        prior=create_prior(prior["kind"], latent_size, encoder_module, shape, {**prior}),
        likelihood=pixels,
        image_shape=shape,
    )
