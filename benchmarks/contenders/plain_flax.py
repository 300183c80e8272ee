"""The same model with the library's transposed convolution, a call a step."""

import flax.linen as nn
from contenders import ours

from vae_jax import decoders

VARIANTS = ("single calls",)

# This process builds the model from the library's layer.
decoders.ConvTranspose = nn.ConvTranspose

Contender = ours.Contender
