"""The residual block that encoders and decoders share."""

import flax.linen as nn
import jax

from vae_jax.model.activations import Activation
from vae_jax.model.conv_transpose import ConvTranspose

KERNEL_SIZE = (3, 3)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each after the activation, added to their input.

    He et al. 2016 (arXiv:1603.05027). It begins as the identity: the second kernel is zero
    (Goyal et al. 2017, of its last scale).

    Attributes:
      activation: element by element.
    """

    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `<float>[batch, height, width, channels]` to the same shape."""
        features = x.shape[-1]
        # At stride 1 a transposed convolution is a convolution.
        y = ConvTranspose(features, KERNEL_SIZE)(self.activation(x))
        zeros = nn.initializers.zeros
        return x + ConvTranspose(features, KERNEL_SIZE, kernel_init=zeros)(self.activation(y))
