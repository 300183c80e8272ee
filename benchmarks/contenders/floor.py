"""What a step would take if one thing alone bounded it: arithmetic, or memory traffic."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import decoder_sizes

_IMAGE_SIZE = 28
_MATRIX_SIZE = 1024
_ARRAY_SIZE = 32 * 2**20  # 128 MiB, more than a processor's caches hold
# Adam reads a parameter, its gradient and two moments, and writes three of them.
_BYTES_PER_PARAMETER = 7 * 4


def _layer_sizes(config: dict[str, Any]) -> list[tuple[int, int]]:
    """Multiplications for one image and parameters of each layer."""
    hidden, latent = config["encoder"]["hidden_size"], config["latent_size"]
    decoder = config["decoder"]
    lstm = (_IMAGE_SIZE + hidden) * 4 * hidden
    heads = _IMAGE_SIZE * hidden * 2 * latent
    layers = [(_IMAGE_SIZE * lstm, lstm + 4 * hidden), (heads, heads + 2 * latent)]
    dense_sizes, (height, width, channels) = decoder_sizes(decoder, _IMAGE_SIZE)
    for before, after in itertools.pairwise((latent, *dense_sizes)):
        layers.append((before * after, before * after + after))
    for filters, stride in zip(decoder["filters"], decoder["strides"], strict=True):
        kernel = 9 * channels * filters
        layers.append((height * width * kernel, kernel + filters))
        height, width, channels = height * stride, width * stride, filters
    logits = height * width * channels * _IMAGE_SIZE**2
    return [*layers, (logits, logits + _IMAGE_SIZE**2)]


class Contender:
    """Does a step's worth of one thing; see `benchmarks/worker.py` for what each does."""

    def __init__(self, variant: str, config: dict[str, Any], images: np.ndarray):
        sizes = _layer_sizes(config)
        self.num_parameters = sum(parameters for _, parameters in sizes)
        self.device = jax.devices()[0].device_kind
        self.version = f"JAX {jax.__version__}"
        if variant == "arithmetic":
            # Forward, and the gradients of inputs and parameters.
            flops = 2 * 3 * sum(products for products, _ in sizes) * config["train"]["batch_size"]
            self._calls_per_step = flops / (2 * _MATRIX_SIZE**3)
            self._value = jnp.full((_MATRIX_SIZE, _MATRIX_SIZE), 1 / _MATRIX_SIZE)
            self._call = jax.jit(lambda x: x @ x)
        else:
            traffic = _BYTES_PER_PARAMETER * self.num_parameters
            self._calls_per_step = traffic / (2 * 4 * _ARRAY_SIZE)
            self._value = jnp.ones(_ARRAY_SIZE)
            self._call = jax.jit(lambda x: x * 1.0001, donate_argnums=0)

    def first_loss(self) -> float:
        """Calls once; there is no loss."""
        self.run(1)
        return math.nan

    def run(self, num_steps: int) -> None:
        """Does the work of that many steps; returns when it is done."""
        for _ in range(round(self._calls_per_step * num_steps)):
            self._value = self._call(self._value)
        jax.block_until_ready(self._value)
