"""Formulas of diagonal Gaussians, in nats: pure functions for posteriors and priors."""

import math

import jax
import jax.numpy as jnp


def sum_per_example(terms: jax.Array) -> jax.Array:
    """Sums `<float>[batch, ...]` over all axes but the first."""
    return jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


def gaussian_kl_per_dimension(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Computes the KL divergence of each Gaussian from N(0, 1): `<float>[...]`, nats.

    KL(N(m, s^2) || N(0, 1)) = 1/2 (s^2 + m^2 - 1 - log s^2)

    Kingma and Welling 2014 (arXiv:1312.6114), appendix B. `expm1` keeps full precision
    where the variance is near 1 and the divergence near 0.
    """
    return 0.5 * (jnp.expm1(log_var) - log_var + jnp.square(mean))


def gaussian_kl(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Computes the KL of diagonal Gaussians `<float>[batch, latent]` from N(0, I): `[batch]`."""
    # Halved after the sum: XLA would merge this sum with one over the batch, in another order.
    return 0.5 * sum_per_example(2.0 * gaussian_kl_per_dimension(mean, log_var))


def gaussian_log_density(x: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Computes the log-density of a diagonal Gaussian at `<float>[batch, latent]`: `[batch]`.

    log N(x; m, diag(s^2)) = -1/2 sum_j (log 2 pi + log s_j^2 + (x_j - m_j)^2 / s_j^2)

    Bishop 2006, Pattern Recognition and Machine Learning, equation 2.43 with a diagonal
    covariance. Mean and log-variance broadcast against `x`.
    """
    squared_distance = jnp.square(x - mean) * jnp.exp(-log_var)
    return -0.5 * sum_per_example(math.log(2.0 * math.pi) + log_var + squared_distance)


def gaussian_log_density_of_noise(noise: jax.Array, log_var: jax.Array) -> jax.Array:
    """Computes the log-density of the sample mean + exp(log_var / 2) * noise.

    `<float>[..., latent]`, which the log-variance broadcasts against, gives `<float>[...]`. The
    sample is rounded, and its density would be wrong at small variances; the noise is exact.
    """
    terms = math.log(2.0 * math.pi) + log_var + jnp.square(noise)
    return -0.5 * jnp.sum(terms, axis=-1)


def sample_gaussian(key: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Draws a reparameterized sample of each diagonal Gaussian `<float>[..., latent]`.

    z = m + s * e,  e ~ N(0, I)

    Kingma and Welling 2014 (arXiv:1312.6114), section 2.4: gradients pass to `mean` and
    `log_var`, the noise depends on the key alone.
    """
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape, mean.dtype)
