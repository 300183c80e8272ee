"""Encoders: each maps a batch of images to its posterior q(z | x)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.model.conv_transpose import ConvTranspose
from vae_jax.model.dense import ACTIVATIONS, Activation, Dense
from vae_jax.model.posterior import Posterior
from vae_jax.model.residual_block import KERNEL_SIZE, ResidualBlock
from vae_jax.model.structs import Batch

# Means of "relu" are never negative.
MEAN_ACTIVATIONS: dict[str, Activation] = {"none": lambda mean: mean, "relu": nn.relu}

# Rows in one iteration of the LSTM's loop. An accelerator spends its time on the many small kernels
# of each row and the loop around them; a CPU does not, and it compiles one row sooner.
_ROWS_ON_CPU, _ROWS_ON_ACCELERATOR = 1, 7


class _Encoder(nn.Module):
    """The last layers of an encoder."""

    latent_size: int
    activation: str = "relu"  # of the dense layers, in `ACTIVATIONS`
    mean_activation: str = "none"  # in `MEAN_ACTIVATIONS`
    num_classes: int = 0  # labels, inputs of the encoder, for q(z | x, y); 0 for none

    def _posterior(self, features: jax.Array, sizes: Sequence[int]) -> Posterior:
        """Applies dense layers of these widths, then one for the mean and one for log-variance."""
        for size in sizes:
            features = ACTIVATIONS[self.activation](Dense(size)(features))
        mean = Dense(self.latent_size, name="mean")(features)
        mean = MEAN_ACTIVATIONS[self.mean_activation](mean)
        return Posterior(mean, Dense(self.latent_size, name="log_var")(features))


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


class LSTMEncoder(_Encoder):
    """An LSTM that reads an image as a sequence of its rows, top to bottom, all channels of each.

    Convolutions may come first: it then reads the rows of their maps, half as many.
    The outputs after every row are flattened; dense layers, if any, and two dense heads follow.
    """

    hidden_size: int = 64  # of the LSTM's state
    num_layers: int = 1  # each reads the outputs of the one before (Graves et al. 2013)
    # Whether each layer has a second LSTM that reads from the bottom to the top; the outputs of
    # both stand side by side (Schuster and Paliwal 1997).
    bidirectional: bool = False
    mlp_sizes: Sequence[int] = ()  # widths of the dense layers before the two heads
    # Channels of maps of half the height and width, whose rows are read in place of the image's; 0
    # for none.
    map_channels: int = 0
    residual_blocks: int = 0  # number on these maps

    @nn.compact
    def __call__(self, batch: Batch) -> Posterior:
        """Encodes images, intensities in [0, 1]."""
        images = batch.images
        maps = self._maps(images) if self.map_channels else images
        rows = maps.reshape(*maps.shape[:2], -1)
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
        return self._posterior(rows.reshape(images.shape[0], -1), self.mlp_sizes)

    def _maps(self, images: jax.Array) -> jax.Array:
        """Maps images to `<float>[batch, height / 2, width / 2, map_channels]`, rounded up."""
        batch, height, width, channels = images.shape
        x = jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        # Each square of four pixels becomes the channels of one.
        x = x.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, channels).swapaxes(2, 3)
        x = ConvTranspose(self.map_channels, KERNEL_SIZE)(x.reshape(*x.shape[:3], -1))
        activation = ACTIVATIONS[self.activation]
        for _ in range(self.residual_blocks):
            x = ResidualBlock(activation)(x)
        return activation(x)


class DenseEncoder(_Encoder):
    """Dense layers of the widths `dense_sizes` over the flattened image, then two dense heads."""

    dense_sizes: Sequence[int] = (512, 256)

    @nn.compact
    def __call__(self, batch: Batch) -> Posterior:
        """Encodes images, intensities in [0, 1]."""
        features = batch.images.reshape(batch.images.shape[0], -1)
        if self.num_classes:
            features = jnp.concatenate([features, batch.one_hot(self.num_classes)], axis=-1)
        return self._posterior(features, self.dense_sizes)


ENCODERS: dict[str, type[nn.Module]] = {"lstm": LSTMEncoder, "dense": DenseEncoder}
