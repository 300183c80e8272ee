"""The activations that dense layers and convolutions may have, by name."""

from collections.abc import Callable

import flax.linen as nn
import jax

Activation = Callable[[jax.Array], jax.Array]

# swish is x sigmoid(x): Ramachandran et al. 2017 (arXiv:1710.05941).
ACTIVATIONS: dict[str, Activation] = {"relu": nn.relu, "swish": nn.swish}


def get_activation(name: str) -> Activation:
    """Returns the activation of that name, which maps an array element by element.

    Raises:
      ValueError: there is none.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}, must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
