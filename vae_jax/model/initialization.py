"""Initial parameters other than Flax's defaults."""

import functools
import math

import jax
import jax.numpy as jnp

from vae_jax.model.vae import VAE, Params

# The dense layers of an LSTM cell, from the input and from the hidden state to its four gates.
_LSTM_LAYERS = {f"{source}{gate}" for source in "ih" for gate in "ifgo"}


def tensorflow_params(params: Params, key: jax.Array) -> Params:
    """Draws parameters as TensorFlow 1: Glorot uniform kernels, zero biases, open forget gates.

    Glorot and Bengio 2010, equation 16. The forget gate's bias of 1 is the LSTM cell's default
    `forget_bias` (Jozefowicz et al. 2015). Takes a VAE's parameters, for their shapes and for
    the prior's values, which stay.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    new = []
    for index, (keys, leaf) in enumerate(leaves):
        path = tuple(entry.key for entry in keys)
        cell = functools.reduce(lambda tree, name: tree[name], path[:-2], params)
        is_lstm = set(cell) == _LSTM_LAYERS
        if path[-1] == "kernel":
            *receptive_field, fan_in, fan_out = leaf.shape
            if is_lstm:
                # TensorFlow's cell has one kernel, from input and hidden state to all gates.
                fan_in = sum(cell[name]["kernel"].shape[0] for name in ("ii", "hi"))
                fan_out *= 4
            limit = math.sqrt(6.0 / (math.prod(receptive_field) * (fan_in + fan_out)))
            leaf_key = jax.random.fold_in(key, index)
            new.append(jax.random.uniform(leaf_key, leaf.shape, leaf.dtype, -limit, limit))
        elif path[0] == "prior":
            new.append(leaf)
        else:
            is_forget_gate = is_lstm and path[-2:] == ("hf", "bias")
            new.append(jnp.full_like(leaf, 1.0 if is_forget_gate else 0.0))
    return jax.tree_util.tree_unflatten(structure, new)


def with_data_bias(model: VAE, params: Params, mean_image: jax.Array) -> Params:
    """Sets the biases of the decoder's head to the data's mean, as the code of Burda et al. 2016.

    The mean image is `<float>[height, width, channels]`, intensities in [0, 1].
    """
    name = model.decoder.output_layer
    head = params["decoder"][name]
    per_pixel = head["bias"].size == mean_image.size * model.likelihood.num_outputs
    mean = mean_image if per_pixel else mean_image.mean((0, 1))
    bias = model.likelihood.outputs_with_mean(mean).reshape(-1).astype(head["bias"].dtype)
    return params | {"decoder": params["decoder"] | {name: head | {"bias": bias}}}


def with_pseudo_inputs(params: Params, images: jax.Array) -> Params:
    """Sets a VampPrior's pseudo-inputs, `<float>[components, *image_shape]`, in [0, 1]."""
    return params | {"prior": {"images": images}}
