"""Posteriors q(z | x) and their samples; only this module knows how they are represented."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vae_jax.model import batch_axis, distributions
from vae_jax.model.priors import ClosedFormPrior, Prior


@struct.dataclass
class LatentSample:
    """Samples of a posterior and their log-density."""

    latents: jax.Array  # `<float>[..., batch, latent]`
    log_density: jax.Array  # `<float>[..., batch]`, log q(z | x) of these samples, in nats

    def __getitem__(self, index: Any) -> "LatentSample":
        return jax.tree.map(lambda array: array[index], self)


@struct.dataclass
class Posterior:
    """The diagonal Gaussians q(z | x) of a batch of images."""

    mean: Any  # `<float>[batch, latent]`
    log_var: Any  # `<float>[batch, latent]`, the logarithm of the variance

    def sample(
        self,
        key: jax.Array,
        num_samples: int | None = None,
        path_gradient: bool = False,
        gradient_scale: jax.Array | None = None,
    ) -> LatentSample:
        """Draws reparameterized samples with the exact log-density, at small variances too.

        Takes one key, or `<key>[batch]`, which alone decide their images' noise; without a number
        of samples there is one, without the first axis. With `path_gradient` gradients of the
        log-density pass through the sample alone: Roeder et al. 2017 (arXiv:1703.09194), section 3.
        Gradients through a sample are multiplied by `<float>[num_samples, batch]` if given.
        """
        mean, log_var, noise = self.mean, self.log_var, _draw_noise(key, num_samples, self.mean)
        if num_samples is not None:
            mean, log_var = mean[None], log_var[None]
        latents = mean + jnp.exp(0.5 * log_var) * noise
        if gradient_scale is not None:
            latents = _scale_gradient(latents, gradient_scale[..., None])
        if path_gradient:
            log_var = jax.lax.stop_gradient(log_var)
            # The noise's value with the sample's derivative.
            noise += (latents - jax.lax.stop_gradient(latents)) * jnp.exp(-0.5 * log_var)
        log_density = distributions.gaussian_log_density_of_noise(noise, log_var)
        return LatentSample(latents, log_density)

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Computes log q(z | x) of others' `<float>[..., batch, latent]`: `<float>[..., batch]`."""
        noise = (latents - self.mean) * jnp.exp(-0.5 * self.log_var)
        return distributions.gaussian_log_density_of_noise(noise, self.log_var)

    def kl(self, prior: Prior, sample: LatentSample) -> jax.Array:
        """Computes KL(q(z | x) || p(z)) of each image: `<float>[batch]`, nats.

        In closed form if the prior has one, else log q(z | x) - log p(z) of the sample `[batch]`.
        """
        if isinstance(prior, ClosedFormPrior):
            return prior.kl(self.mean, self.log_var)
        return sample.log_density - prior.log_density(sample.latents)

    def kl_per_dimension(self, prior: Prior) -> jax.Array:
        """Computes each latent dimension's KL in closed form: `<float>[batch, latent]`, nats."""
        if not isinstance(prior, ClosedFormPrior):
            raise ValueError("the KL from this prior has no closed form for each latent dimension")
        return prior.kl_per_dimension(self.mean, self.log_var)

    def aggregate_variance(self) -> np.ndarray:
        """Computes the variance `<float64>[latent]` of the mixture of all images' posteriors."""
        mean, variance = np.asarray(self.mean), np.exp(np.asarray(self.log_var))
        return mean.var(0, dtype=np.float64) + variance.mean(0, dtype=np.float64)

    def to_arrays(self) -> dict[str, Any]:
        """Returns the arrays that represent posteriors in files, by name."""
        return {"mean": self.mean, "log_var": self.log_var}


def _draw_noise(key: jax.Array, num_samples: int | None, mean: jax.Array) -> jax.Array:
    """Draws standard normal noise, `<float>[num_samples, batch, latent]`, or without that axis."""
    leading = () if num_samples is None else (num_samples,)
    if not key.ndim:
        shape = (*leading, *mean.shape)
        return batch_axis.draw(jax.random.normal, key, shape, axis=len(leading))

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (*leading, *mean.shape[1:]), mean.dtype)

    return jax.vmap(draw, out_axes=len(leading))(key)


@jax.custom_vjp
def _scale_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns `x`; multiplies gradients that pass through it by `scale`, which gets none."""
    del scale
    return x


_scale_gradient.defvjp(
    lambda x, scale: (x, scale), lambda scale, g: (g * scale, jnp.zeros_like(scale))
)
