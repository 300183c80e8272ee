"""Priors p(z) over latent vectors: what the KL term pulls posteriors to, and samples come from.

To write one of your own, give a class the attributes and methods of `Prior` and name it in
`PRIORS`. Nothing else in the package knows what the prior is. One with parameters is a Flax module.
"""

import dataclasses
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.model import distributions
from vae_jax.model.coupling_flow import CouplingFlow


class Prior(Protocol):
    """What the rest of the package asks of a prior.

    Attributes:
      has_closed_form: whether the KL divergence of a Gaussian from it has one, dimension by
        dimension; else it is estimated by log q - log p of a sample.
      is_flow: whether it is made of a standard normal by an invertible map; else the base space is
        the latent space itself.
    """

    has_closed_form: ClassVar[bool]
    is_flow: ClassVar[bool]

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        ...

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        ...

    def kl_per_dimension(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes the KL of posteriors, dimension by dimension: `<float>[batch, latent]`, nats.

        Asked where there is a closed form.
        """
        ...

    def kl(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes their sum: KL(q(z | x) || p(z)), `<float>[batch]`, nats per image; likewise."""
        ...

    def to_base(self, latents: jax.Array) -> jax.Array:
        """Maps latent vectors `<float>[batch, latent]` to the base space; asked of a flow."""
        ...

    def from_base(self, base: jax.Array) -> jax.Array:
        """Maps vectors of the base space `<float>[batch, latent]` to latent vectors; likewise."""
        ...


@dataclasses.dataclass(frozen=True)
class StandardNormal:
    """N(0, I), without anything to learn.

    Attributes:
      latent_size: number of latent dimensions.
    """

    latent_size: int

    has_closed_form: ClassVar = True
    is_flow: ClassVar = False

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        zeros = jnp.zeros_like(latents)
        return distributions.gaussian_log_density(latents, zeros, zeros)

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        return jax.random.normal(key, (num_samples, self.latent_size), jnp.float32)

    def kl_per_dimension(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes the KL divergence of each posterior from the prior, dimension by dimension.

        Args:
          mean: `<float>[batch, latent]`, of q(z | x).
          log_var: `<float>[batch, latent]`, of q(z | x).

        Returns:
          `<float>[batch, latent]`, nats; they sum to `kl`.
        """
        return distributions.gaussian_kl_per_dimension(mean, log_var)

    def kl(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes KL(q(z | x) || p(z)): `<float>[batch]`, nats per image."""
        return distributions.gaussian_kl(mean, log_var)


class _Mixture(nn.Module):
    """A mixture of diagonal Gaussians, which a subclass names."""

    has_closed_form: ClassVar = False
    is_flow: ClassVar = False

    def components(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns mean and log-variance `<float>[components, latent]`, and log-weights."""
        raise NotImplementedError

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        mean, log_var, log_weights = self.components()
        density = jax.vmap(distributions.gaussian_log_density, in_axes=(None, 0, 0), out_axes=1)
        each = density(latents, mean[:, None], log_var[:, None])
        return jax.nn.logsumexp(each + log_weights[None], axis=1)

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        mean, log_var, log_weights = self.components()
        component_key, noise_key = jax.random.split(key)
        chosen = jax.random.categorical(component_key, log_weights, shape=(num_samples,))
        return distributions.sample_gaussian(noise_key, mean[chosen], log_var[chosen])


class GaussianMixture(_Mixture):
    """A mixture of Gaussians in the latent space, all of it learned.

    Attributes:
      latent_size: number of latent dimensions.
      num_components: Gaussians.
    """

    latent_size: int
    num_components: int = 500

    def setup(self) -> None:
        """Makes means, log-variances and weights; together they begin near the standard normal."""
        shape, zeros = (self.num_components, self.latent_size), nn.initializers.zeros
        self.mean = self.param("mean", nn.initializers.normal(0.5), shape)
        self.log_var = self.param("log_var", zeros, shape)
        self.logits = self.param("logits", zeros, (self.num_components,))

    def components(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns mean and log-variance `<float>[components, latent]`, and log-weights."""
        return self.mean, self.log_var, jax.nn.log_softmax(self.logits)


class VampPrior(_Mixture):
    """The mixture of the posteriors of learned images (Tomczak and Welling 2018).

    arXiv:1705.07120, equation 9, or of training images, "VampPrior data" there. The pseudo-inputs
    are intensities between 0 and 1.

    Attributes:
      encoder: the autoencoder's own.
      image_shape: `(height, width, channels)`.
      num_components: pseudo-inputs.
      pseudo_inputs: "learned", or "data" for the images that training begins with, which stay.
    """

    encoder: nn.Module
    image_shape: tuple[int, int, int]
    num_components: int = 500
    pseudo_inputs: str = "learned"

    def setup(self) -> None:
        """Makes the pseudo-inputs: noise about gray, learned, or a place for images."""
        shape = (self.num_components, *self.image_shape)
        self.images = self.param("images", nn.initializers.normal(1.0), shape)

    def components(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns mean and log-variance `<float>[components, latent]`, and log-weights."""
        is_learned = self.pseudo_inputs == "learned"
        images = jax.nn.sigmoid(self.images) if is_learned else jax.lax.stop_gradient(self.images)
        mean, log_var = self.encoder(images)
        return mean, log_var, jnp.full(self.num_components, -jnp.log(self.num_components))


PRIORS = {
    "standard_normal": StandardNormal,
    "coupling_flow": CouplingFlow,
    "mixture": GaussianMixture,
    "vamp": VampPrior,
}


def create_prior(
    kind: str,
    latent_size: int,
    encoder: nn.Module,
    image_shape: tuple[int, int, int],
    attributes: dict[str, Any],
) -> Any:
    """Builds a prior.

    Args:
      kind: a name in `PRIORS`.
      latent_size: number of latent dimensions.
      encoder: the autoencoder's.
      image_shape: `(height, width, channels)` of an image.
      attributes: the prior's, among others that are left out.

    Raises:
      ValueError: it is of another kind.
    """
    if kind not in PRIORS:
        raise ValueError(f"prior kind is {kind!r}, must be one of {', '.join(PRIORS)}")
    known = {"latent_size": latent_size, "encoder": encoder, "image_shape": image_shape}
    fields = {field.name for field in dataclasses.fields(PRIORS[kind])}
    given = {**attributes, **known}
    return PRIORS[kind](**{name: given[name] for name in given if name in fields})
