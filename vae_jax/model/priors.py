"""The prior over latent vectors: the one place that says what it is."""

import dataclasses

import jax
import jax.numpy as jnp

from vae_jax.model import distributions


@dataclasses.dataclass(frozen=True)
class StandardNormal:
    """N(0, I), without anything to learn.

    Attributes:
      latent_size: number of latent dimensions.
    """

    latent_size: int

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        zeros = jnp.zeros_like(latents)
        return distributions.gaussian_log_density(latents, zeros, zeros)

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Latent vectors `<float>[num_samples, latent]`, decided by the key."""
        return jax.random.normal(key, (num_samples, self.latent_size))
