"""Importance-weighted estimates of log p(x), in sums that grow as samples come: pure functions.

log p(x) = log E_q(z|x)[r],  r = p(x | z) p(z) / q(z | x)

is estimated by the logarithm of the mean of k weights: Burda et al. 2016 (arXiv:1509.00519),
equation 8. It is below log p(x) on average, and nearer the larger k. A weight is r if all samples
are from q(z | x), and that of `balance_heuristic` if some are from the prior.
"""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class WeightSums:
    """Sums over the samples drawn so far, for each image."""

    count: jax.Array  # `<int32>[]`, number of samples of an image
    posterior_count: jax.Array  # `<int32>[]`, number of those from q(z | x)
    log_sum: jax.Array  # `<float>[batch]`, logarithm of the sum of the weights
    log_sum_of_squares: jax.Array  # `<float>[batch]`, logarithm of the sum of their squares
    sum_of_log_ratios: jax.Array  # `<float>[batch]`, of the samples from q(z | x)


def no_weights(batch_size: int) -> WeightSums:
    """Returns the sums before the first weight."""
    nothing = jnp.full(batch_size, -jnp.inf)
    return WeightSums(jnp.int32(0), jnp.int32(0), nothing, nothing, jnp.zeros(batch_size))


def balance_heuristic(
    log_ratios: jax.Array, log_likelihoods: jax.Array, prior_fraction: jax.Array | float
) -> jax.Array:
    """Computes log-weights `<float>[...]` of samples of which a fraction f is from the prior.

    w = p(x | z) p(z) / (f p(z) + (1 - f) q(z | x)) = p(x | z) / (f + (1 - f) p(x | z) / r)

    The mean of all weights is p(x) without bias, and none exceeds p(x | z) / f, however badly
    q(z | x) fits: a defensive mixture (Hesterberg 1995, Technometrics 37) with the balance
    heuristic (Veach and Guibas 1995, SIGGRAPH). With f = 0 a weight is r.
    """
    log_q_over_prior = log_likelihoods - log_ratios
    log_mixture = jnp.logaddexp(
        jnp.log(prior_fraction), jnp.log1p(-prior_fraction) + log_q_over_prior
    )
    # Not NaN where p(x | z) is 0.
    return jnp.where(log_likelihoods == -jnp.inf, -jnp.inf, log_likelihoods - log_mixture)


def add_weights(
    sums: WeightSums, log_weights: jax.Array, log_ratios: jax.Array, is_posterior: jax.Array
) -> WeightSums:
    """Adds k samples to the sums, in pieces of any size.

    Log-weights and log-ratios, log r, are `<float>[k, batch]`; `is_posterior`, `<bool>[k]`, is
    whether a sample is from q(z | x).
    """
    return WeightSums(
        count=sums.count + len(log_weights),
        posterior_count=sums.posterior_count + is_posterior.sum(dtype=jnp.int32),
        log_sum=jnp.logaddexp(sums.log_sum, jax.nn.logsumexp(log_weights, axis=0)),
        log_sum_of_squares=jnp.logaddexp(
            sums.log_sum_of_squares, jax.nn.logsumexp(2.0 * log_weights, axis=0)
        ),
        sum_of_log_ratios=sums.sum_of_log_ratios
        + jnp.where(is_posterior[:, None], log_ratios, 0.0).sum(0),
    )


def log_likelihood(sums: WeightSums) -> jax.Array:
    """Estimates log p(x), the log of the mean weight: `<float>[batch]`, nats."""
    return sums.log_sum - jnp.log(sums.count.astype(sums.log_sum.dtype))


def evidence_lower_bound(sums: WeightSums) -> jax.Array:
    """Estimates the ELBO, the mean of log r under q(z | x): `<float>[batch]`, nats."""
    return sums.sum_of_log_ratios / sums.posterior_count.astype(sums.sum_of_log_ratios.dtype)


def effective_sample_size(sums: WeightSums) -> jax.Array:
    """Computes (sum of w)^2 / (sum of w^2), Kong 1992: `<float>[batch]`, from 1 to the count."""
    return jnp.exp(2.0 * sums.log_sum - sums.log_sum_of_squares)
