"""Likelihoods p(x | z) of pixels: what the decoder's raw outputs mean.

To write one of your own, give a class the methods of `Bernoulli` and name it in `create_vae`.
Nothing else in the package knows what the outputs are.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vae_jax.model.distributions import sum_per_example

MAX_PIXEL = 255.0
# A pixel that is the same in nearly all images gets no output beyond these means.
_MEAN_LIMITS = (0.001, 0.999)


def to_intensities(images: jax.Array) -> jax.Array:
    """Maps pixels `<uint8>[...]` to intensities `<float32>[...]` in [0, 1]."""
    return images.astype(jnp.float32) / MAX_PIXEL


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Independent binary pixels; the decoder's outputs are their logits.

    Gray pixels in (0, 1) give the negative binary cross-entropy, which is no likelihood.
    """

    def log_prob(self, outputs: jax.Array, images: jax.Array) -> jax.Array:
        """Computes log p(x | z) of images.

        log p(x | l) = sum_i x_i log sigmoid(l_i) + (1 - x_i) log sigmoid(-l_i)

        Kingma and Welling 2014 (arXiv:1312.6114), appendix C.1, equation 11, written in logits:
        `log_sigmoid` stays finite, and so does its gradient, where log(sigmoid) would underflow.

        Args:
          outputs: `<float>[batch, ...]`, log-odds of each pixel being 1.
          images: `<float>[batch, ...]`, intensities in [0, 1], of the same shape.

        Returns:
          `<float>[batch]`, nats per image.

        Raises:
          ValueError: the shapes differ.
        """
        if outputs.shape != images.shape:
            raise ValueError(
                f"outputs have shape {outputs.shape}, images {images.shape}: must be equal"
            )
        log_p_one = jax.nn.log_sigmoid(outputs)
        log_p_zero = jax.nn.log_sigmoid(-outputs)
        return sum_per_example(images * log_p_one + (1.0 - images) * log_p_zero)

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Computes the mean of each pixel, in [0, 1], of the outputs' shape."""
        return jax.nn.sigmoid(outputs)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Draws pixels, 0 or 1, of the outputs' shape and type."""
        return jax.random.bernoulli(key, self.mean(outputs)).astype(outputs.dtype)

    def outputs_with_mean(self, mean: jax.Array) -> jax.Array:
        """Computes the outputs whose `mean` is the one given, kept off 0 and 1."""
        return jax.scipy.special.logit(jnp.clip(mean, *_MEAN_LIMITS))
