"""Importance-weighted estimates of log p(x), in sums that grow as samples come: pure functions.

log p(x) = log E_q(z|x)[w],  w = p(x | z) p(z) / q(z | x)

is estimated by the logarithm of the mean of k weights: Burda et al. 2016 (arXiv:1509.00519),
equation 8. It is below log p(x) on average, and nearer the larger k.
"""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class WeightSums:
    """What the weights drawn so far come to, for each image.

    Attributes:
      count: `<int32>[]`, how many there are for an image.
      log_sum: `<float>[batch]`, logarithm of the sum of the weights.
      log_sum_of_squares: `<float>[batch]`, logarithm of the sum of their squares.
      sum_of_logs: `<float>[batch]`, sum of their logarithms.
    """

    count: jax.Array
    log_sum: jax.Array
    log_sum_of_squares: jax.Array
    sum_of_logs: jax.Array


def no_weights(batch_size: int) -> WeightSums:
    """Returns the sums before the first weight."""
    nothing = jnp.full(batch_size, -jnp.inf)
    return WeightSums(jnp.int32(0), nothing, nothing, jnp.zeros(batch_size))


def add_weights(sums: WeightSums, log_weights: jax.Array) -> WeightSums:
    """Adds `<float>[k, batch]` log-weights to the sums, in whatever pieces they come."""
    return WeightSums(
        count=sums.count + len(log_weights),
        log_sum=jnp.logaddexp(sums.log_sum, jax.nn.logsumexp(log_weights, axis=0)),
        log_sum_of_squares=jnp.logaddexp(
            sums.log_sum_of_squares, jax.nn.logsumexp(2.0 * log_weights, axis=0)
        ),
        sum_of_logs=sums.sum_of_logs + log_weights.sum(0),
    )


def log_likelihood(sums: WeightSums) -> jax.Array:
    """Estimates log p(x), the log of the mean weight: `<float>[batch]`, nats."""
    return sums.log_sum - jnp.log(sums.count.astype(sums.log_sum.dtype))


def evidence_lower_bound(sums: WeightSums) -> jax.Array:
    """Estimates the ELBO, the mean of the log-weights: `<float>[batch]`, nats."""
    return sums.sum_of_logs / sums.count.astype(sums.sum_of_logs.dtype)


def effective_sample_size(sums: WeightSums) -> jax.Array:
    """Computes how many equal weights are worth as much: `<float>[batch]`, 1 to the count.

    (sum of w)^2 / (sum of w^2), Kong 1992.
    """
    return jnp.exp(2.0 * sums.log_sum - sums.log_sum_of_squares)
