"""Adam, and what can go with it: schedules, clipped gradients, weight decay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax.model.vae import Params

SCHEDULES = ("constant", "cosine", "burda")

# Burda et al. 2016, section 5: the rate is 10**(-i / 7) of the first for 3**i epochs, i = 0..7.
_BURDA_STAGES = 8


# Equal arguments give the same function: optimizers, and programs compiled for them, are shared.
@functools.cache
def learning_rate_schedule(
    name: str, learning_rate: float, num_steps: int
) -> optax.ScalarOrSchedule:
    """Returns the learning rate of each step.

    Args:
      name: "constant", "cosine" (half a period, to 0 at the end; Loshchilov and Hutter 2017) or
        "burda" (eight stages, each three times as long as the one before, from the rate to a
        tenth of it; Burda et al. 2016, whose 3,280 epochs are stretched over the steps).
      learning_rate: the first step's.
      num_steps: steps of the whole training.

    Returns:
      The rate itself where it is constant, else from the number of steps taken before to the rate.

    Raises:
      ValueError: the schedule has another name.
    """
    if name == "constant":
        return learning_rate
    if name == "cosine":
        return optax.cosine_decay_schedule(learning_rate, num_steps)
    if name == "burda":
        ends = np.cumsum([3**stage for stage in range(_BURDA_STAGES)])  # in epochs
        boundaries = -(-num_steps * ends[:-1] // ends[-1])
        return lambda count: (
            learning_rate * 10.0 ** (-jnp.sum(count >= boundaries) / (_BURDA_STAGES - 1))
        )
    raise ValueError(f"the schedule is {name!r}, must be one of {', '.join(SCHEDULES)}")


def _is_kernel(params: Params) -> Params:
    """Tells which parameters decay: kernels and not biases, a tree of `bool` like theirs."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


# Likewise, the same transformation.
@functools.cache
def create_optimizer(
    learning_rate: optax.ScalarOrSchedule,
    max_gradient_norm: float = 0.0,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Makes Adam (Kingma and Ba 2015), by itself or with what the other arguments ask for.

    Args:
      learning_rate: a number, or a function from `learning_rate_schedule`.
      max_gradient_norm: a gradient of a larger norm, over all parameters, is scaled down to it
        (Pascanu et al. 2013); 0 for none.
      weight_decay: every step subtracts this times the learning rate of the kernels from them
        (AdamW, Loshchilov and Hutter 2019, with the rate in the product); 0 for none.
    """
    parts = [optax.clip_by_global_norm(max_gradient_norm)] if max_gradient_norm else []
    if weight_decay:
        parts.append(optax.adamw(learning_rate, weight_decay=weight_decay, mask=_is_kernel))
    else:
        parts.append(optax.adam(learning_rate))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]
