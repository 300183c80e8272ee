"""The variational autoencoder: the questions that all other code asks of a model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.model.decoders import DECODERS
from vae_jax.model.encoders import ENCODERS
from vae_jax.model.likelihoods import LIKELIHOODS, Likelihood
from vae_jax.model.posterior import LatentSample, Posterior
from vae_jax.model.priors import PRIORS, Prior
from vae_jax.model.structs import Batch

# A module's parameters in Flax's form: nested dictionaries of arrays.
Params = dict[str, Any]


def apply(
    module: nn.Module, params: Params, *arguments: Any, method: str | Callable | None = None
) -> Any:
    """Calls a method of a module, by name or as a function of it, with these parameters."""
    return module.apply({"params": params}, *arguments, method=method)


class VAE(nn.Module):
    """A variational autoencoder of images."""

    encoder: nn.Module  # maps a batch to its posterior
    decoder: nn.Module  # maps latents to the parameters of the likelihood, for every pixel
    prior: Prior  # p(z); `prior(batch)` is the prior of a batch
    likelihood: Likelihood  # p(x | z), given the decoder's outputs
    image_shape: tuple[int, int, int]  # `(height, width, channels)`
    num_classes: int = 0  # labels, inputs of encoder and decoder; 0 for a model without

    def setup(self) -> None:
        """Makes the parameters that belong to neither encoder nor decoder."""
        if self.likelihood.learns_scale:
            zeros = nn.initializers.zeros
            self.raw_scale = self.param("raw_scale", zeros, self.image_shape[-1:])

    def __call__(self, batch: Batch, key: jax.Array) -> jax.Array:
        """Encodes images, draws one latent vector for each and decodes it; makes all parameters."""
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
        """Maps latents to the parameters of p(x | z): `<float>[batch, height, width, outputs]`.

        Latents are `<float>[batch, latent]`. Reads the labels of the batch, if the model has
        classes, and no images. Without a dropout key dropout is off.
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
        """Computes log importance weights of new samples, `<float>[num_samples, batch]`, nats."""
        return self.log_weights_of(batch, self.posterior(batch).sample(key, num_samples))[0]

    def log_weights_of(
        self, batch: Batch, sample: LatentSample, dropout_key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Computes log importance weights, log p(x | z) + log p(z) - log q(z | x), of samples.

        Returns them and log p(x | z), each `<float>[num_samples, batch]`, nats.
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

    Encoder, decoder and prior hold a `kind`, a name in `ENCODERS`, `DECODERS` or `PRIORS`, and
    its attributes. The kind of a decoder is "conv_transpose" by default, and the prior the standard
    normal. The likelihood is a name in `LIKELIHOODS`, `image_shape` is `(height, width, channels)`,
    and `num_classes` the number of labels of a conditional model, else 0.

    Raises:
      ValueError: a kind or an attribute is unknown.
    """
    height, width, channels = image_shape
    pixels = _build("likelihood", LIKELIHOODS, {"kind": likelihood}, {})
    known: dict[str, Any] = {
        "latent_size": latent_size,
        "image_shape": (height, width, channels),
        "output_shape": (height, width, channels * pixels.num_outputs),
        "num_classes": num_classes,
    }
    known["encoder"] = _build("encoder", ENCODERS, encoder, known)
    return VAE(
        encoder=known["encoder"],
        decoder=_build("decoder", DECODERS, {"kind": "conv_transpose", **decoder}, known),
        prior=_build("prior", PRIORS, prior or {"kind": "standard_normal"}, known),
        likelihood=pixels,
        image_shape=known["image_shape"],
        num_classes=num_classes,
    )


def _build(
    noun: str, kinds: Mapping[str, type], attributes: Mapping[str, Any], known: Mapping[str, Any]
) -> Any:
    """Builds the class that `kind` names from the attributes and known values it has fields for.

    A group of a configuration holds the fields of every kind: those of the others are left out.
    """
    kind = attributes["kind"]
    if kind not in kinds:
        raise ValueError(f"{noun} kind is {kind!r}, must be one of {', '.join(kinds)}")
    fields = {name: {field.name for field in dataclasses.fields(kinds[name])} for name in kinds}
    unknown = set(attributes) - {"kind"}.union(*fields.values())
    if unknown:
        raise ValueError(f"no {noun} has an attribute {min(unknown)!r}")
    given = {**attributes, **known}
    return kinds[kind](**{name: value for name, value in given.items() if name in fields[kind]})
