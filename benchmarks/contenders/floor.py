"""What a step would take if one thing alone bounded it: arithmetic, or memory traffic."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import IMAGE_SIZE, decoder_sizes

_MATRIX_SIZE = 1024
_ARRAY_SIZE = 32 * 2**20  # 128 MiB, more than a processor's caches hold
# Adam reads a parameter, its gradient and two moments, and writes three of them; a moving average
# is read and written besides.
_BYTES_PER_PARAMETER = 7 * 4
_BYTES_PER_AVERAGE = 2 * 4


class _Layers:
    """Counts a model's parameters, and its multiplications for one image."""

    def __init__(self) -> None:
        self.products = 0
        self.parameters = 0

    def add(self, kernel: int, biases: int, places: int = 1) -> None:
        """Adds a layer whose kernel, of that many numbers, is applied at several places."""
        self.products += places * kernel
        self.parameters += kernel + biases

    def add_dense(self, *sizes: int) -> None:
        """Adds dense layers, from the first size to the last."""
        for before, after in itertools.pairwise(sizes):
            self.add(before * after, after)

    def add_convolution(self, places: int, before: int, after: int) -> None:
        """Adds a 3 x 3 convolution, which has as many places as the smaller of its maps."""
        self.add(9 * before * after, after, places)


def _count(config: dict[str, Any]) -> _Layers:
    counted, latent = _Layers(), config["latent_size"]
    encoder, decoder = config["encoder"], config["decoder"]
    hidden, directions = encoder["hidden_size"], 1 + encoder["bidirectional"]
    width = IMAGE_SIZE
    for _ in range(encoder["num_layers"]):
        for _ in range(directions):
            counted.add((width + hidden) * 4 * hidden, 4 * hidden, places=IMAGE_SIZE)
        width = hidden * directions
    counted.add_dense(IMAGE_SIZE * width, *encoder["mlp_sizes"], 2 * latent)
    dense_sizes, (height, width, channels) = decoder_sizes(decoder)
    counted.add_dense(latent, *dense_sizes)
    places = height * width
    blocks = decoder["residual_blocks"] or (0,) * len(decoder["filters"])
    layers = zip(decoder["filters"], decoder["strides"], blocks, strict=True)
    for filters, stride, num_blocks in layers:
        counted.add_convolution(places, channels, filters)
        places, channels = places * stride**2, filters
        for _ in range(2 * num_blocks):
            counted.add_convolution(places, channels, channels)
    if decoder["head"] == "conv":
        counted.add_convolution(places, channels, 1)
    else:
        counted.add_dense(places * channels, IMAGE_SIZE**2)
    return counted


class Contender:
    """Does a step's worth of one thing; see `benchmarks/worker.py` for what each does."""

    def __init__(self, variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        counted, train = _count(config), config["train"]
        self._num_parameters = counted.parameters
        self.device = jax.devices()[0].device_kind
        self.version = f"JAX {jax.__version__}"
        if variant == "arithmetic":
            # Forward, and the gradients of inputs and parameters.
            flops = 2 * 3 * counted.products * train["batch_size"]
            self._calls_per_step = flops / (2 * _MATRIX_SIZE**3)
            self._value = jnp.full((_MATRIX_SIZE, _MATRIX_SIZE), 1 / _MATRIX_SIZE)
            self._call = jax.jit(lambda x: x @ x)
        else:
            num_bytes = _BYTES_PER_PARAMETER + (_BYTES_PER_AVERAGE if train["ema_decay"] else 0)
            traffic = num_bytes * self._num_parameters
            self._calls_per_step = traffic / (2 * 4 * _ARRAY_SIZE)
            self._value = jnp.ones(_ARRAY_SIZE)
            self._call = jax.jit(lambda x: x * 1.0001, donate_argnums=0)

    def facts(self) -> dict[str, Any]:
        """Calls once; returns the model's size; there is no loss."""
        self.run(1)
        return {"first_loss": None, "num_parameters": self._num_parameters}

    def run(self, num_steps: int) -> None:
        """Does the work of that many steps; returns when it is done."""
        for _ in range(round(self._calls_per_step * num_steps)):
            self._value = self._call(self._value)
        jax.block_until_ready(self._value)
