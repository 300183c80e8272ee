"""Priors p(z) over latent vectors: what the KL term pulls posteriors to, and samples come from.

To write one of your own, give a class the methods of `StandardNormal` and name it in
`create_vae`. Nothing else in the package knows what the prior is.
"""

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

    def kl(self, mean: jax.Array, log_var: jax.Array, latents: jax.Array) -> jax.Array:
        """Computes KL(q(z | x) || p(z)), here in closed form.

        Args:
          mean: `<float>[batch, latent]`, of q(z | x).
          log_var: `<float>[batch, latent]`, of q(z | x).
          latents: `<float>[batch, latent]`, a sample of q(z | x): for priors without a closed
            form; not used here.

        Returns:
          `<float>[batch]`, nats per image.
        """
        del latents
        return distributions.gaussian_kl(mean, log_var)
