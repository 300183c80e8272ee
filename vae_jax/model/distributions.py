"""Pure functions of the two distributions a VAE of binary images is made of.

All values are in nats. Sums run over every axis but the first, so that each function but
the sampler maps `[batch, ...]` to `[batch]`.
"""

import math

import jax
import jax.numpy as jnp


def _sum_per_example(terms: jax.Array) -> jax.Array:
    """Sums `[batch, ...]` over all axes but the first."""
    return jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


def bernoulli_log_likelihood(logits: jax.Array, images: jax.Array) -> jax.Array:
    """Log-likelihood of independent Bernoulli pixels.

    log p(x | l) = sum_i x_i log sigmoid(l_i) + (1 - x_i) log sigmoid(-l_i)

    Kingma and Welling 2014 (arXiv:1312.6114), appendix C.1, equation 11, written in logits:
    `log_sigmoid` stays finite, and so does its gradient, where log(sigmoid) would underflow.
    Grey pixels in (0, 1) give the negative binary cross-entropy, which is no likelihood.

    Args:
      logits: `<float>[batch, ...]`, log-odds of each pixel being 1.
      images: `<float>[batch, ...]`, pixels in [0, 1], of the same shape.

    Returns:
      `<float>[batch]`, nats per image.

    Raises:
      ValueError: the shapes differ.
    """
    if logits.shape != images.shape:
        raise ValueError(f"logits have shape {logits.shape}, images {images.shape}: must be equal")
    log_p_one = jax.nn.log_sigmoid(logits)
    log_p_zero = jax.nn.log_sigmoid(-logits)
    return _sum_per_example(images * log_p_one + (1.0 - images) * log_p_zero)


def gaussian_kl(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL divergence of a diagonal Gaussian from the standard normal.

    KL(N(m, diag(s^2)) || N(0, I)) = 1/2 sum_j (s_j^2 + m_j^2 - 1 - log s_j^2)

    Kingma and Welling 2014 (arXiv:1312.6114), appendix B. `expm1` keeps full precision
    where the variance is near 1 and the divergence near 0.

    Args:
      mean: `<float>[batch, latent]`.
      log_var: `<float>[batch, latent]`, the logarithm of the variance.

    Returns:
      `<float>[batch]`, nats per image, never negative but for rounding.
    """
    return 0.5 * _sum_per_example(jnp.expm1(log_var) - log_var + jnp.square(mean))


def gaussian_log_density(x: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Log-density of a diagonal Gaussian.

    log N(x; m, diag(s^2)) = -1/2 sum_j (log 2 pi + log s_j^2 + (x_j - m_j)^2 / s_j^2)

    Bishop 2006, Pattern Recognition and Machine Learning, equation 2.43 with a diagonal
    covariance.

    Args:
      x: `<float>[batch, latent]`, where the density is wanted.
      mean: the Gaussian's mean; broadcasts against `x`.
      log_var: the logarithm of its variance; broadcasts against `x`.

    Returns:
      `<float>[batch]`, nats.
    """
    squared_distance = jnp.square(x - mean) * jnp.exp(-log_var)
    return -0.5 * _sum_per_example(math.log(2.0 * math.pi) + log_var + squared_distance)


def sample_gaussian(key: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Reparameterised sample of a diagonal Gaussian.

    z = m + s * e,  e ~ N(0, I)

    Kingma and Welling 2014 (arXiv:1312.6114), section 2.4: gradients pass to `mean` and
    `log_var`, the noise depends on the key alone.

    Args:
      key: a PRNG key.
      mean: `<float>[..., latent]`.
      log_var: `<float>[..., latent]`, of the same shape.

    Returns:
      `<float>[..., latent]`, one draw for each mean.
    """
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + jnp.exp(0.5 * log_var) * noise
