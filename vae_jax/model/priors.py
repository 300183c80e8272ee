"""Priors p(z) over latent vectors: the KL term pulls posteriors to them, samples come from them.

To write one of your own, give a class the attributes and methods of `Prior`, those of
`ClosedFormPrior` or `FlowPrior` if it has them, and name it in `PRIORS`. Nothing else in the
package knows which prior it is. A prior with parameters is a Flax module.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.model import distributions
from vae_jax.model.coupling_flow import CouplingFlow
from vae_jax.model.factory import build
from vae_jax.model.label_priors import given_labels
from vae_jax.model.structs import Batch


class Prior(Protocol):
    """What every prior has.

    Attributes:
      base_is_standard_normal: whether vectors of its base space are drawn from N(0, I). The base
        space of a `FlowPrior` is where its map begins, else it is the latent space itself.
    """

    base_is_standard_normal: ClassVar[bool]

    @property
    def is_learned(self) -> bool:
        """Whether training changes it."""
        ...

    def __call__(self, batch: Batch) -> "Prior":
        """Returns the prior of a batch: p(z), the same for all, or p(z | y)."""
        ...

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        ...

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        ...


@runtime_checkable
class ClosedFormPrior(Protocol):
    """A prior from which the KL divergence of a diagonal Gaussian has a closed form.

    A prior without these two methods has the KL estimated by log q - log p of a sample.
    """

    def kl_per_dimension(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes the KL of posteriors, dimension by dimension: `<float>[batch, latent]`, nats."""
        ...

    def kl(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes their sum: KL(q(z | x) || p(z)), `<float>[batch]`, nats per image."""
        ...


@runtime_checkable
class FlowPrior(Protocol):
    """A prior that is an invertible map of its base space."""

    def to_base(self, latents: jax.Array) -> jax.Array:
        """Maps latent vectors `<float>[batch, latent]` to the base space."""
        ...

    def from_base(self, base: jax.Array) -> jax.Array:
        """Maps vectors of the base space `<float>[batch, latent]` to latent vectors."""
        ...


@dataclasses.dataclass(frozen=True)
class StandardNormal:
    """N(0, I), without anything to learn.

    Attributes:
      latent_size: number of latent dimensions.
    """

    latent_size: int

    base_is_standard_normal: ClassVar = True
    is_learned: ClassVar = False

    def __call__(self, batch: Batch) -> "StandardNormal":
        """Returns the prior of a batch: the same for every image."""
        return self

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

    base_is_standard_normal: ClassVar = False
    num_classes = 0  # not a field yet: a subclass may make it one

    @property
    def is_learned(self) -> bool:
        """Whether training changes it."""
        return True

    def __call__(self, batch: Batch) -> Any:
        """Returns the prior of a batch: the same for every image, or that of each label."""
        return given_labels(self, batch)

    def components(self, labels: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns mean and log-variance `<float>[components, latent]`, and log-weights.

        The log-weights are `<float>[components]`, or of each label `<float>[batch, components]`.
        """
        raise NotImplementedError

    def log_density(self, latents: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        mean, log_var, log_weights = self.components(labels)
        density = jax.vmap(distributions.gaussian_log_density, in_axes=(None, 0, 0), out_axes=1)
        each = density(latents, mean[:, None], log_var[:, None])
        log_weights = log_weights[None] if labels is None else log_weights
        return jax.nn.logsumexp(each + log_weights, axis=1)

    def sample(
        self, key: jax.Array, num_samples: int, labels: jax.Array | None = None
    ) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        mean, log_var, log_weights = self.components(labels)
        component_key, noise_key = jax.random.split(key)
        chosen = jax.random.categorical(component_key, log_weights, shape=(num_samples,))
        return distributions.sample_gaussian(noise_key, mean[chosen], log_var[chosen])


class GaussianMixture(_Mixture):
    """A mixture of Gaussians in the latent space, all of it learned.

    Attributes:
      latent_size: number of latent dimensions.
      num_components: Gaussians.
      num_classes: of the labels, each of which has weights of its own, for p(z | y); 0 for none.
    """

    latent_size: int
    num_components: int = 500
    num_classes: int = 0

    def setup(self) -> None:
        """Makes means, log-variances and weights; together they begin near the standard normal."""
        shape, zeros = (self.num_components, self.latent_size), nn.initializers.zeros
        self.mean = self.param("mean", nn.initializers.normal(0.5), shape)
        self.log_var = self.param("log_var", zeros, shape)
        classes = (self.num_classes,) if self.num_classes else ()
        self.logits = self.param("logits", zeros, (*classes, self.num_components))

    def components(self, labels: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns mean and log-variance `<float>[components, latent]`, and log-weights."""
        log_weights = jax.nn.log_softmax(self.logits)
        if labels is not None:
            log_weights = labels @ log_weights
        return self.mean, self.log_var, log_weights


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

    @property
    def is_learned(self) -> bool:
        """Whether training changes it; the encoder's own training apart."""
        return self.pseudo_inputs == "learned"

    @property
    def num_training_images(self) -> int:
        """Training images that it begins with, as `with_pseudo_inputs` puts them there."""
        return 0 if self.is_learned else self.num_components

    def components(self, labels: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns mean and log-variance `<float>[components, latent]`, and log-weights."""
        learned = self.is_learned
        images = jax.nn.sigmoid(self.images) if learned else jax.lax.stop_gradient(self.images)
        posterior = self.encoder(Batch(images))
        log_weights = jnp.full(self.num_components, -jnp.log(self.num_components))
        return posterior.mean, posterior.log_var, log_weights


PRIORS: dict[str, type] = {
    "standard_normal": StandardNormal,
    "coupling_flow": CouplingFlow,
    "mixture": GaussianMixture,
    "vamp": VampPrior,
}


def create_prior(
    attributes: Mapping[str, Any],
    latent_size: int,
    encoder: nn.Module,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
) -> Any:
    """Builds a prior.

    Args:
      attributes: `kind`, a name in `PRIORS`, and the attributes of that prior.
      latent_size: number of latent dimensions.
      encoder: the autoencoder's.
      image_shape: `(height, width, channels)` of an image.
      num_classes: of the labels that a learned prior is given; 0 for none.

    Raises:
      ValueError: it is of another kind, or no prior has such an attribute.
    """
    known = {
        "latent_size": latent_size,
        "encoder": encoder,
        "image_shape": image_shape,
        "num_classes": num_classes,
    }
    return build("prior", PRIORS, attributes, known)
