"""Adam, learning rate schedules, clipped gradients and weight decay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax.model.vae import Params

# Burda et al. 2016, section 5: the rate is 10**(-i / 7) of the first for 3**i epochs, i = 0..7.
_BURDA_STAGES = 8


# Cached: compiled programs are shared between equal settings, which need the same function.
@functools.cache
def learning_rate_schedule(
    name: str, learning_rate: float, num_steps: int
) -> optax.ScalarOrSchedule:
    """Returns the rate, or a function from the number of steps taken before to the rate.

    "cosine" is half a period, to 0 after `num_steps` (Loshchilov and Hutter 2017); "burda" has
    eight stages, each three times as long as the one before, from the rate to a tenth of it (Burda
    et al. 2016, whose 3,280 epochs are stretched over the steps).
    """
    if name == "constant":
        return learning_rate
    if name == "cosine":
        return optax.cosine_decay_schedule(learning_rate, num_steps)
    ends = np.cumsum([3**stage for stage in range(_BURDA_STAGES)])  # in epochs
    boundaries = -(-num_steps * ends[:-1] // ends[-1])
    return lambda count: (
        learning_rate * 10.0 ** (-jnp.sum(count >= boundaries) / (_BURDA_STAGES - 1))
    )


def _is_kernel(params: Params) -> Params:
    """Returns a tree of `bool`: kernels decay, biases do not."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


@functools.cache
def create_optimizer(
    learning_rate: optax.ScalarOrSchedule,
    max_gradient_norm: float = 0.0,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Creates Adam (Kingma and Ba 2015).

    A gradient of a norm above `max_gradient_norm`, over all parameters, is scaled down to it
    (Pascanu et al. 2013). Every step subtracts `weight_decay` times the learning rate of the
    kernels from them (AdamW, Loshchilov and Hutter 2019, with the rate in the product). 0 turns
    either off.
    """
    parts = [optax.clip_by_global_norm(max_gradient_norm)] if max_gradient_norm else []
    if weight_decay:
        parts.append(optax.adamw(learning_rate, weight_decay=weight_decay, mask=_is_kernel))
    else:
        parts.append(optax.adam(learning_rate))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]
