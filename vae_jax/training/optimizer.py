"""Adam, and what can go with it: schedules, clipped gradients, weight decay, averages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Burda et al. 2016, section 5: the rate is 10**(-i / 7) of the first for 3**i epochs, i = 0..7.
_BURDA_STAGES = 8


def learning_rate_schedule(
    name: str, learning_rate: float, num_steps: int
) -> optax.ScalarOrSchedule:
    """The learning rate of each step.

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
    raise ValueError(f"the schedule is {name!r}, must be 'constant', 'cosine' or 'burda'")


def _kernels(params: Any) -> Any:
    """Which parameters decay: the kernels and not the biases, a tree of `bool` like theirs."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


class AverageState(NamedTuple):
    """The state of `average_params`.

    Attributes:
      count: `<int32>[]`, parameters averaged so far.
      average: their average, a tree like theirs.
    """

    count: jax.Array
    average: Any


def average_params(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the parameters; the updates stay as they are.

    Kingma and Ba 2015, section 7.2, with their correction for the start: after t steps the
    parameters of step i weigh decay**(t - i), over the sum of these weights. The last of a
    chain, for only what leaves it is added to the parameters.

    Args:
      decay: above 0 and below 1; 1 / (1 - decay) steps are remembered.
    """

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: AverageState, params: Any) -> tuple[Any, AverageState]:
        count = state.count + 1
        # Of the newest parameters; 1 for the first.
        weight = (1.0 - decay) / (1.0 - jnp.float32(decay) ** count)
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda old, new: old + weight * (new - old), state.average, new)
        return updates, AverageState(count, average)

    return optax.GradientTransformation(init, update)


def create_optimizer(
    learning_rate: float,
    schedule: str = "constant",
    num_steps: int = 1,
    max_gradient_norm: float = 0.0,
    weight_decay: float = 0.0,
    ema_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015), by itself or with what the other arguments ask for.

    Args:
      learning_rate: the first step's.
      schedule: of the learning rate, as for `learning_rate_schedule`.
      num_steps: steps of the whole training; only a schedule looks at it.
      max_gradient_norm: a gradient of a larger norm, over all parameters, is scaled down to it
        (Pascanu et al. 2013); 0 for none.
      weight_decay: what every step takes off the kernels besides, this times its learning rate of
        them (AdamW, Loshchilov and Hutter 2019, with the rate in the product); 0 for none.
      ema_decay: of the parameters' average, which is then what is evaluated; 0 for none.

    Raises:
      ValueError: the schedule has another name.
    """
    parts = [optax.clip_by_global_norm(max_gradient_norm)] if max_gradient_norm else []
    rate = learning_rate_schedule(schedule, learning_rate, num_steps)
    if weight_decay:
        parts.append(optax.adamw(rate, weight_decay=weight_decay, mask=_kernels))
    else:
        parts.append(optax.adam(rate))
    if ema_decay:
        parts.append(average_params(ema_decay))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def evaluation_params(params: Any, opt_state: optax.OptState) -> Any:
    """The parameters to evaluate: their average where the optimiser keeps one."""
    average = optax.tree.get(opt_state, "average")
    return params if average is None else average
