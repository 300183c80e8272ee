"""The residual block of encoders and decoders."""

import flax.linen as nn
import jax

from vae_jax.model.conv_transpose import ConvTranspose
from vae_jax.model.dense import Activation

KERNEL_SIZE = (3, 3)  # at stride 1 a transposed convolution is a convolution


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each after the activation, added to their input.

    He et al. 2016 (arXiv:1603.05027). With Flax's initialization it begins as the identity: the
    second kernel is zero (Goyal et al. 2017, of its last scale). TensorFlow's draws both.
    """

    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `<float>[batch, height, width, channels]` to the same shape."""
        features = x.shape[-1]
        y = ConvTranspose(features, KERNEL_SIZE)(self.activation(x))
        zeros = nn.initializers.zeros
        return x + ConvTranspose(features, KERNEL_SIZE, kernel_init=zeros)(self.activation(y))
