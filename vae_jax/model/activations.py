"""The activations that dense layers and convolutions may have, by name."""

from collections.abc import Callable

import flax.linen as nn
import jax

Activation = Callable[[jax.Array], jax.Array]

# swish is x sigmoid(x): Ramachandran et al. 2017 (arXiv:1710.05941).
_BY_NAME: dict[str, Activation] = {"relu": nn.relu, "swish": nn.swish}


def named(name: str) -> Activation:
    """The activation of that name, which maps an array element by element.

    Raises:
      ValueError: there is none.
    """
    if name not in _BY_NAME:
        raise ValueError(f"activation is {name!r}, must be one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
