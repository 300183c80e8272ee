"""Encoders: each maps a batch of images to its posterior q(z | x)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.model.activations import get_activation
from vae_jax.model.dense import Dense
from vae_jax.model.posterior import Posterior
from vae_jax.model.structs import Batch


def _dense_layers(features: jax.Array, sizes: Sequence[int], activation: str) -> jax.Array:
    """Applies dense layers with an activation, part of the module that calls this."""
    for size in sizes:
        features = get_activation(activation)(Dense(size)(features))
    return features


def _gaussian_heads(features: jax.Array, latent_size: int, mean_activation: str) -> Posterior:
    """Applies two dense layers, part of the module that calls this."""
    mean = Dense(latent_size, name="mean")(features)
    if mean_activation == "relu":
        mean = nn.relu(mean)
    elif mean_activation != "none":
        raise ValueError(f"mean_activation is {mean_activation!r}, must be 'none' or 'relu'")
    return Posterior(mean, Dense(latent_size, name="log_var")(features))


# Rows in one iteration of the LSTM's loop. An accelerator's time goes into the many small kernels
# of each row and the loop around them; a CPU's does not, and it compiles one row sooner.
_ROWS_ON_CPU, _ROWS_ON_ACCELERATOR = 1, 7


def _lstm(hidden_size: int, rows: jax.Array, name: str, reverse: bool = False) -> jax.Array:
    """Applies an LSTM layer, part of the module that calls this; returns every row's output."""

    def scanned(unroll: int) -> Callable[..., nn.Module]:
        return nn.scan(
            nn.OptimizedLSTMCell,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
            reverse=reverse,
            unroll=unroll,
        )

    zeros = jnp.zeros((rows.shape[0], hidden_size), rows.dtype)
    layer = scanned(_ROWS_ON_CPU)(hidden_size, name=name)
    if layer.is_initializing():
        return layer((zeros, zeros), rows)[1]

    def read(unroll: int, params: Any, rows: jax.Array) -> Any:
        return scanned(unroll)(hidden_size).apply({"params": params}, (zeros, zeros), rows)[1]

    # Chosen when the program is compiled, as the transposed convolutions' form is.
    return jax.lax.platform_dependent(
        layer.variables["params"],
        rows,
        cpu=functools.partial(read, _ROWS_ON_CPU),
        default=functools.partial(read, _ROWS_ON_ACCELERATOR),
    )


class LSTMEncoder(nn.Module):
    """An LSTM that reads an image as a sequence of its rows, top to bottom, all channels of each.

    The outputs after every row are flattened; dense layers, if any, and two dense heads follow.

    Attributes:
      latent_size: number of latent dimensions.
      hidden_size: size of the LSTM's hidden state.
      num_layers: each LSTM layer reads the outputs of the one before (Graves et al. 2013).
      bidirectional: whether each layer has a second LSTM that reads from the bottom to the top;
        the outputs of both stand side by side (Schuster and Paliwal 1997).
      mlp_sizes: widths of the dense layers before the two heads.
      activation: "relu" or "swish", of these.
      mean_activation: "none", or "relu" for means that are never negative.
      num_classes: of the labels, which the encoder is given too: q(z | x, y); 0 for none.
    """

    latent_size: int
    hidden_size: int = 64
    num_layers: int = 1
    bidirectional: bool = False
    mlp_sizes: Sequence[int] = ()
    activation: str = "relu"
    mean_activation: str = "none"
    num_classes: int = 0

    @nn.compact
    def __call__(self, batch: Batch) -> Posterior:
        """Encodes images, intensities in [0, 1]."""
        images = batch.images
        rows = images.reshape(*images.shape[:2], -1)
        if self.num_classes:  # at the end of each row
            label = batch.one_hot(self.num_classes)[:, None]
            repeated = jnp.broadcast_to(label, (*rows.shape[:2], self.num_classes))
            rows = jnp.concatenate([rows, repeated], axis=-1)
        for index in range(self.num_layers):
            name = f"lstm_{index}" if index else "lstm"
            outputs = _lstm(self.hidden_size, rows, name)
            if self.bidirectional:
                backward = _lstm(self.hidden_size, rows, f"{name}_backward", reverse=True)
                outputs = jnp.concatenate([outputs, backward], axis=-1)
            rows = outputs
        features = rows.reshape(images.shape[0], -1)
        features = _dense_layers(features, self.mlp_sizes, self.activation)
        return _gaussian_heads(features, self.latent_size, self.mean_activation)


class DenseEncoder(nn.Module):
    """Dense layers over the flattened image, then two dense heads.

    Attributes:
      latent_size: number of latent dimensions.
      dense_sizes: widths of the hidden layers.
      activation: "relu" or "swish", of these.
      mean_activation: "none", or "relu" for means that are never negative.
      num_classes: of the labels, which the encoder is given too: q(z | x, y); 0 for none.
    """

    latent_size: int
    dense_sizes: Sequence[int] = (512, 256)
    activation: str = "relu"
    mean_activation: str = "none"
    num_classes: int = 0

    @nn.compact
    def __call__(self, batch: Batch) -> Posterior:
        """Encodes images, intensities in [0, 1]."""
        images = batch.images
        features = images.reshape(images.shape[0], -1)
        if self.num_classes:
            features = jnp.concatenate([features, batch.one_hot(self.num_classes)], axis=-1)
        features = _dense_layers(features, self.dense_sizes, self.activation)
        return _gaussian_heads(features, self.latent_size, self.mean_activation)


ENCODERS: dict[str, type[nn.Module]] = {"lstm": LSTMEncoder, "dense": DenseEncoder}
