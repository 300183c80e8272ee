"""The train state: everything that a training step changes."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params


@struct.dataclass
class MovingAverage:
    """An exponential moving average of parameters."""

    count: jax.Array  # `<int32>[]`, parameters averaged so far
    params: Params  # their average

    def update(self, params: Params, decay: float) -> "MovingAverage":
        """Adds the newest parameters.

        Kingma and Ba 2015, section 7.2, with their correction for the start: after t steps the
        parameters of step i weigh decay**(t - i), over the sum of these weights.
        """
        count = self.count + 1
        # Of the newest parameters; 1 for the first.
        weight = (1.0 - decay) / (1.0 - jax.lax.pow(jnp.float32(decay), count))
        average = jax.tree.map(lambda old, new: old + weight * (new - old), self.params, params)
        return MovingAverage(count, average)


@struct.dataclass
class TrainState:
    """The state of a run between two training steps."""

    step: jax.Array  # `<int32>[]`, number of steps taken
    params: Params
    average: MovingAverage | None  # of the parameters; None if the run has none
    opt_state: optax.OptState
    root_key: jax.Array  # the key all others are folded from; it never changes

    @property
    def evaluation_params(self) -> Params:
        """The parameters to evaluate: their average if the run has one."""
        return self.params if self.average is None else self.average.params


def init_params(model: VAE, root_key: jax.Array) -> Params:
    """Draws a model's parameters from Flax's initializers."""
    # Neither images and labels nor the latent sample's key decide the parameters.
    batch = Batch(jnp.zeros((1, *model.image_shape), jnp.float32), jnp.zeros(1, jnp.int32))
    return dict(model.init(stream_key(root_key, Stream.PARAMETERS), batch, root_key)["params"])


def num_parameters(params: Params) -> int:
    """Counts the numbers a model learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
