"""The same model with the library's transposed convolution, and nothing said to XLA."""

import flax.linen as nn
from contenders.flax_trainer import Trainer as Contender

from vae_jax.model import decoders

__all__ = ["Contender"]

# In this process the model is built from the library's layer.
decoders.ConvTranspose = nn.ConvTranspose
