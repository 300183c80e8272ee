"""What a training step changes, and nothing else: with the configuration it makes a run."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vae_jax.datasets import IMAGE_SHAPE
from vae_jax.model.initialization import tensorflow_params, with_data_bias
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.vae import VAE


@struct.dataclass
class TrainState:
    """The state of a run between two training steps.

    Attributes:
      step: `<int32>[]`, number of steps taken.
      params: the model's parameters.
      opt_state: the optimiser's state.
      root_key: the key all others are folded from; it never changes.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    root_key: jax.Array


def create_train_state(
    model: VAE,
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    initialization: str = "flax",
    mean_image: jax.Array | None = None,
) -> TrainState:
    """The state before the first step; the seed alone decides it, or the seed and a mean image.

    Args:
      model: the autoencoder.
      optimizer: the Optax transformation of its gradients.
      seed: of the run.
      initialization: "flax" (its defaults) or "tensorflow" (version 1's).
      mean_image: `<float>[28, 28]`, pixels in [0, 1], which the decoder is to begin at.

    Raises:
      ValueError: the initialisation is another one.
    """
    root_key = jax.random.key(seed)
    images = jnp.zeros((1, *IMAGE_SHAPE))
    # The latent sample's key has no influence on the parameters' shapes or values.
    params_key = stream_key(root_key, Stream.PARAMETERS)
    params = model.init(params_key, images, root_key)["params"]
    if initialization == "tensorflow":
        params = tensorflow_params(params, params_key)
    elif initialization != "flax":
        raise ValueError(f"initialization is {initialization!r}, must be 'flax' or 'tensorflow'")
    if mean_image is not None:
        params = with_data_bias(params, mean_image)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        root_key=root_key,
    )


def num_parameters(state: TrainState) -> int:
    """How many numbers the model learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
