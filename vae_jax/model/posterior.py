"""Posteriors q(z | x) and their samples; how they are represented is known here alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vae_jax.model import distributions
from vae_jax.model.priors import ClosedFormPrior, Prior


@struct.dataclass
class LatentSample:
    """Samples of a posterior and their log-density.

    Attributes:
      latents: `<float>[..., batch, latent]`.
      log_density: `<float>[..., batch]`, log q(z | x) of these samples, in nats.
    """

    latents: jax.Array
    log_density: jax.Array

    def __getitem__(self, index: Any) -> "LatentSample":
        return jax.tree.map(lambda array: array[index], self)


@struct.dataclass
class Posterior:
    """The diagonal Gaussians q(z | x) of a batch of images.

    Attributes:
      mean: `<float>[batch, latent]`.
      log_var: `<float>[batch, latent]`, the logarithm of the variance.
    """

    mean: Any
    log_var: Any

    def sample(
        self,
        key: jax.Array,
        num_samples: int | None = None,
        path_gradient: bool = False,
        gradient_scale: jax.Array | None = None,
    ) -> LatentSample:
        """Draws reparameterized samples; their log-density is exact at small variances too.

        A sample that is rounded to near the mean has another density than the noise that made it:
        the density is computed from the noise.

        Args:
          key: one key, or `<key>[batch]`, one for each image, which alone decides its noise.
          num_samples: samples of each image; None for one, without the first axis.
          path_gradient: whether gradients pass through the sample alone, and not through the
            Gaussian's parameters in the log-density (Roeder et al. 2017, arXiv:1703.09194).
          gradient_scale: `<float>[num_samples, batch]`, by which gradients through a sample are
            multiplied; None for no change.
        """
        mean, log_var, noise = self.mean, self.log_var, _draw_noise(key, num_samples, self.mean)
        if num_samples is not None:
            mean, log_var = mean[None], log_var[None]
        latents = distributions.reparameterize(mean, log_var, noise)
        if gradient_scale is not None:
            latents = distributions.scale_gradient(latents, gradient_scale[..., None])
        log_density = distributions.log_density_of_sample(latents, log_var, noise, path_gradient)
        return LatentSample(latents, log_density)

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Computes log q(z | x) of `<float>[..., batch, latent]`: `<float>[..., batch]`, nats.

        For latents that other distributions made: `sample` gives that of its own exactly.
        """
        noise = (latents - self.mean) * jnp.exp(-0.5 * self.log_var)
        return distributions.gaussian_log_density_of_noise(noise, self.log_var)

    def kl(self, prior: Prior, sample: LatentSample) -> jax.Array:
        """Computes KL(q(z | x) || p(z)) in closed form if the prior has one, else of the sample.

        Args:
          prior: p(z), bound to its parameters if it has some.
          sample: of this posterior, `[batch]`.

        Returns:
          `<float>[batch]`, nats per image; of a sample, log q(z | x) - log p(z).
        """
        if isinstance(prior, ClosedFormPrior):
            return prior.kl(self.mean, self.log_var)
        return sample.log_density - prior.log_density(sample.latents)

    def kl_per_dimension(self, prior: Prior) -> jax.Array:
        """Computes the KL of each latent dimension: `<float>[batch, latent]`, nats.

        Raises:
          ValueError: the prior's KL has no closed form.
        """
        if not isinstance(prior, ClosedFormPrior):
            raise ValueError("the KL from this prior has no closed form for each latent dimension")
        return prior.kl_per_dimension(self.mean, self.log_var)

    def aggregate_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Computes mean and variance of each latent variable over all images' posteriors together.

        If the aggregate posterior is the prior, as at the optimum of the ELBO (Hoffman and Johnson
        2016, section 2), they are 0 and 1 for the standard normal.

        Returns:
          `(mean, variance)`, each `<float64>[latent]`.
        """
        mean, variance = np.asarray(self.mean), np.exp(np.asarray(self.log_var))
        total = mean.var(0, dtype=np.float64) + variance.mean(0, dtype=np.float64)
        return mean.mean(0, dtype=np.float64), total

    def to_arrays(self) -> dict[str, Any]:
        """Returns the arrays that files and other programs have of posteriors, by name."""
        return {"mean": self.mean, "log_var": self.log_var}


def _draw_noise(key: jax.Array, num_samples: int | None, mean: jax.Array) -> jax.Array:
    """Draws standard normal noise, `<float>[num_samples, batch, latent]`, or without that axis."""
    leading = () if num_samples is None else (num_samples,)
    if not key.ndim:
        return jax.random.normal(key, (*leading, *mean.shape), mean.dtype)

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (*leading, *mean.shape[1:]), mean.dtype)

    return jax.vmap(draw, out_axes=len(leading))(key)
