"""Where parameters begin, other than at Flax's defaults."""

import math
from typing import Any

import jax
import jax.numpy as jnp

# A pixel that is the same in nearly all images gets no bias beyond these.
_MEAN_LIMITS = (0.001, 0.999)
# The columns of a fused LSTM kernel are those of its four gates.
_NUM_GATES = 4


def _glorot_limit(path: tuple[str, ...], shape: tuple[int, ...], params: Any) -> float:
    """Half the width of the uniform distribution: sqrt(6 / (fan in + fan out))."""
    *receptive_field, fan_in, fan_out = shape
    if path[1].startswith("lstm"):
        # TensorFlow's cell has one kernel, of input and hidden state to all gates.
        cell = params[path[0]][path[1]]
        fan_in = sum(cell[name]["kernel"].shape[0] for name in ("ii", "hi"))
        fan_out = _NUM_GATES * shape[1]
    return math.sqrt(6.0 / (math.prod(receptive_field) * (fan_in + fan_out)))


def tensorflow_params(params: Any, key: jax.Array) -> Any:
    """Parameters as TensorFlow 1 begins: Glorot uniform kernels, zero biases, open forget gates.

    Glorot and Bengio 2010, equation 16. The forget gate's bias of 1 is the LSTM cell's default
    `forget_bias` (Jozefowicz et al. 2015).

    Args:
      params: a VAE's parameters, for their shapes.
      key: decides the kernels.

    Returns:
      Parameters of the same shapes.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    new = []
    for index, (keys, leaf) in enumerate(leaves):
        path = tuple(entry.key for entry in keys)
        if path[-1] == "kernel":
            limit = _glorot_limit(path, leaf.shape, params)
            leaf_key = jax.random.fold_in(key, index)
            new.append(jax.random.uniform(leaf_key, leaf.shape, leaf.dtype, -limit, limit))
        else:
            new.append(jnp.full_like(leaf, 1.0 if path[-2:] == ("hf", "bias") else 0.0))
    return jax.tree_util.tree_unflatten(structure, new)


def with_data_bias(params: Any, mean_image: jax.Array) -> Any:
    """Parameters whose decoder begins at the data's mean: the logits' biases are its log-odds.

    So do the authors of Burda et al. 2016, in their code. A convolutional head has one bias for
    all pixels.

    Args:
      params: a VAE's parameters.
      mean_image: `<float>[28, 28]`, the mean of the training images, pixels in [0, 1].
    """
    logits = params["decoder"]["logits"]
    mean = mean_image.reshape(-1) if logits["bias"].size == mean_image.size else mean_image.mean()
    log_odds = jax.scipy.special.logit(jnp.clip(mean, *_MEAN_LIMITS))
    bias = jnp.broadcast_to(log_odds, logits["bias"].shape).astype(logits["bias"].dtype)
    return params | {"decoder": params["decoder"] | {"logits": logits | {"bias": bias}}}
