"""Pure functions of the Gaussian distributions that posteriors and priors are made of.

All values are in nats. Sums run over every axis but the first.
"""

import math

import jax
import jax.numpy as jnp


def sum_per_example(terms: jax.Array) -> jax.Array:
    """Sums `<float>[batch, ...]` over all axes but the first."""
    return jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


def gaussian_kl_per_dimension(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Computes the KL divergence of Gaussians from the standard normal, each by itself.

    KL(N(m, s^2) || N(0, 1)) = 1/2 (s^2 + m^2 - 1 - log s^2)

    Kingma and Welling 2014 (arXiv:1312.6114), appendix B. `expm1` keeps full precision
    where the variance is near 1 and the divergence near 0.

    Args:
      mean: `<float>[...]`.
      log_var: `<float>[...]`, the logarithm of the variance, of the same shape.

    Returns:
      `<float>[...]`, nats, never negative but for rounding.
    """
    return 0.5 * (jnp.expm1(log_var) - log_var + jnp.square(mean))


def gaussian_kl(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Computes the KL divergence of a diagonal Gaussian from the standard normal.

    The sum of `gaussian_kl_per_dimension` over the dimensions.

    Args:
      mean: `<float>[batch, latent]`.
      log_var: `<float>[batch, latent]`, the logarithm of the variance.

    Returns:
      `<float>[batch]`, nats per image.
    """
    # Halved after the sum: XLA would merge this sum with one over the batch, in another order.
    return 0.5 * sum_per_example(2.0 * gaussian_kl_per_dimension(mean, log_var))


def gaussian_log_density(x: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Computes the log-density of a diagonal Gaussian.

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
    return -0.5 * sum_per_example(math.log(2.0 * math.pi) + log_var + squared_distance)


def sample_gaussian(key: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Draws a reparameterized sample of a diagonal Gaussian.

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
    return reparameterize(mean, log_var, jax.random.normal(key, mean.shape, mean.dtype))


def reparameterize(mean: jax.Array, log_var: jax.Array, noise: jax.Array) -> jax.Array:
    """Makes a sample of a diagonal Gaussian of standard normal noise, `<float>[..., latent]`."""
    return mean + jnp.exp(0.5 * log_var) * noise


@jax.custom_vjp
def scale_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns `x`; gradients that pass through it are multiplied by `scale`, which has none."""
    del scale
    return x


scale_gradient.defvjp(
    lambda x, scale: (x, scale), lambda scale, g: (g * scale, jnp.zeros_like(scale))
)


def log_density_of_sample(
    latents: jax.Array, log_var: jax.Array, noise: jax.Array, path_gradient: bool = False
) -> jax.Array:
    """Computes the log-density of a sample that `reparameterize` made of noise.

    Args:
      latents: `<float>[..., latent]`, the sample.
      log_var: the logarithm of the variance; broadcasts against `latents`.
      noise: `<float>[..., latent]`, standard normal.
      path_gradient: whether gradients pass through the sample alone, and not through the
        Gaussian's parameters beside: Roeder et al. 2017 (arXiv:1703.09194), section 3. Their
        mean over samples is the same, their variance is smaller near the optimum.

    Returns:
      `<float>[...]`, nats; the same either way.
    """
    if not path_gradient:
        return gaussian_log_density_of_noise(noise, log_var)
    log_var = jax.lax.stop_gradient(log_var)
    # The noise's value, and the sample's derivative.
    path = (latents - jax.lax.stop_gradient(latents)) * jnp.exp(-0.5 * log_var)
    return gaussian_log_density_of_noise(noise + path, log_var)


def gaussian_log_density_of_noise(noise: jax.Array, log_var: jax.Array) -> jax.Array:
    """Computes the log-density of the sample that `reparameterize` makes of this noise.

    At a small variance the sample is rounded to near the mean, and its density would be wrong;
    the noise is exact.

    Args:
      noise: `<float>[..., latent]`, standard normal.
      log_var: the logarithm of the variance; broadcasts against `noise`.

    Returns:
      `<float>[...]`, nats.
    """
    terms = math.log(2.0 * math.pi) + log_var + jnp.square(noise)
    return -0.5 * jnp.sum(terms, axis=-1)
