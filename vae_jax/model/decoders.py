"""Decoders: each maps latent vectors to the likelihood's parameters, for every pixel."""

import math
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.model import batch_axis
from vae_jax.model.conv_transpose import ConvTranspose
from vae_jax.model.dense import ACTIVATIONS, Dense, DivisibleDense
from vae_jax.model.residual_block import KERNEL_SIZE, ResidualBlock
from vae_jax.model.structs import Batch


def _dropout(x: jax.Array, rate: float, key: jax.Array, num_copies: int) -> jax.Array:
    """Sets a fraction of values to 0 and scales the others; `<float>[copies * batch, ...]`."""
    copies = (num_copies,) if num_copies > 1 else ()
    shape = (*copies, len(x) // num_copies, *x.shape[1:])
    mask = batch_axis.draw(
        lambda key, shape: jax.random.bernoulli(key, 1.0 - rate, shape), key, shape, len(copies)
    )
    return jnp.where(mask.reshape(x.shape), x / (1.0 - rate), 0.0)


class ConvTransposeDecoder(nn.Module):
    """Dense layers, a grid, transposed convolutions, then a head that gives the outputs.

    The grid has the outputs' height and width over the product of the strides, rounded up; the
    maps of the last transposed convolution are cropped.
    """

    # Name of the last layer, whose biases `output_bias_init` sets; Flax derives initial values from
    # names, so it stays, whatever the likelihood.
    output_layer: ClassVar = "logits"

    output_shape: tuple[int, int, int]  # `(height, width, channels)` of the outputs for an image
    dense_sizes: Sequence[int]  # widths of the dense layers before the one that fills the grid
    grid_channels: int
    filters: Sequence[int]  # output channels of each 3 x 3 transposed convolution
    strides: Sequence[int]  # of each transposed convolution
    dropout_rate: float = 0.0  # fraction of values that dropout sets to 0
    dropout_after: Sequence[int] = ()  # indices of the transposed convolutions that dropout follows
    residual_blocks: Sequence[int] = ()  # number after each of these, before its activation
    activation: str = "relu"  # in `ACTIVATIONS`
    # "dense": a dense layer from the flattened maps to all pixels; "conv": a 3 x 3 convolution.
    head: str = "dense"
    # Labels, inputs of the decoder, for p(x | z, y), as M2's in Kingma et al. 2014
    # (arXiv:1406.5298); 0 for none.
    num_classes: int = 0

    @property
    def divisible_shape(self) -> tuple[int, int]:
        """The shape of the last layer's kernel if devices can divide its rows, else (0, 0)."""
        height, width, _ = self.output_shape
        if self.head != "dense":
            return 0, 0
        return height * width * self.filters[-1], math.prod(self.output_shape)

    @nn.compact
    def __call__(
        self, latents: jax.Array, batch: Batch, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Decodes latents `<float>[batch, latent]`, as `VAE.decode` does."""
        activation = ACTIVATIONS[self.activation]
        height, width, channels = self.output_shape
        stride = math.prod(self.strides)
        grid = (math.ceil(height / stride), math.ceil(width / stride), self.grid_channels)
        x = latents
        if self.num_classes:
            x = jnp.concatenate([latents, batch.one_hot(self.num_classes)], axis=-1)
        for size in (*self.dense_sizes, math.prod(grid)):
            x = activation(Dense(size)(x))
        x = x.reshape(-1, *grid)
        blocks = self.residual_blocks or (0,) * len(self.filters)
        layers = zip(self.filters, self.strides, blocks, strict=True)
        for index, (features, stride, num_blocks) in enumerate(layers):
            x = ConvTranspose(features, KERNEL_SIZE, (stride, stride))(x)
            for _ in range(num_blocks):
                x = ResidualBlock(activation)(x)
            x = activation(x)
            if dropout_key is not None and self.dropout_rate and index in self.dropout_after:
                layer_key = jax.random.fold_in(dropout_key, index)
                x = _dropout(x, self.dropout_rate, layer_key, batch.num_copies)
        x = x[:, :height, :width]
        if self.head == "dense":
            flat = x.reshape(x.shape[0], -1)
            x = DivisibleDense(math.prod(self.output_shape), name=self.output_layer)(flat)
        else:
            # At stride 1 a transposed convolution is a convolution.
            x = ConvTranspose(channels, KERNEL_SIZE, name=self.output_layer)(x)
        return x.reshape(-1, *self.output_shape)


DECODERS: dict[str, type[nn.Module]] = {"conv_transpose": ConvTransposeDecoder}
