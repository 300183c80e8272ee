"""The transposed convolution alone: forward and backward, in and outside `lax.scan`.

  python benchmarks/conv_transpose.py

Against `flax.linen.ConvTranspose`'s own function, over the layers of the configurations.
The outputs are compared before anything is timed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from common import ROOT, decoder_sizes, describe_machine, load_config, print_table

from vae_jax.model.conv_transpose import conv_transpose
from vae_jax.runtime import compilation

_KERNEL_SIZE = 3
_STEPS = 3  # of a scan

Layer = tuple[int, int, int, int]  # size of the input's side, channels in, channels out, stride


def library(x: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """Calls what `flax.linen.ConvTranspose` calls."""
    return jax.lax.conv_transpose(
        x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def layers_of(paths: list[str]) -> list[Layer]:
    """Lists the different layers of the configurations, those of residual blocks and heads too."""
    layers = set()
    for path in paths:
        decoder = load_config(path).decoder
        _, (size, _, channels) = decoder_sizes(decoder)
        blocks = decoder.residual_blocks or (0,) * len(decoder.filters)
        for filters, stride, count in zip(decoder.filters, decoder.strides, blocks, strict=True):
            layers.add((size, channels, filters, stride))
            size, channels = size * stride, filters
            if count:
                layers.add((size, channels, channels, 1))
        layers.add((size, channels, 1, 1))
    return sorted(layers)


def programs_of(function: Callable, stride: int, weights: jax.Array) -> dict[str, Callable]:
    """Compiles forward and backward passes: one a call, and several in a scan."""

    def step(carry, _):
        x, kernel = carry
        out, vjp = jax.vjp(lambda x, kernel: function(x, kernel, (stride, stride)), x, kernel)
        # The cotangent is not a constant, as in a network.
        x_gradient, kernel_gradient = vjp(0.01 * out + weights)
        return (x + 1e-4 * x_gradient, kernel + 1e-4 * kernel_gradient), None

    return {
        "call": jax.jit(lambda carry: step(carry, None)[0]),
        "scan": jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=_STEPS)[0]),
    }


def time_layer(layer: Layer, batch_size: int, rounds: int) -> tuple[str, ...]:
    """Makes a row of the table: median milliseconds, the library's as a multiple of ours."""
    size, in_channels, out_channels, stride = layer
    generator = np.random.RandomState(0)
    x = jnp.asarray(generator.normal(size=(batch_size, size, size, in_channels)), jnp.float32)
    kernel_shape = (_KERNEL_SIZE, _KERNEL_SIZE, in_channels, out_channels)
    kernel = jnp.asarray(0.1 * generator.normal(size=kernel_shape), jnp.float32)
    weights = jnp.asarray(generator.normal(size=library(x, kernel, (stride, stride)).shape))
    functions = {"ours": conv_transpose, "library": library}
    programs = {
        (owner, place): program
        for owner, function in functions.items()
        for place, program in programs_of(function, stride, weights).items()
    }
    results = {name: program((x, kernel)) for name, program in programs.items()}
    for place in ("call", "scan"):
        for ours, expected in zip(results["ours", place], results["library", place], strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-2)
    times = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program((x, kernel)))
            elapsed = 1000 * (time.perf_counter() - start)
            times[name].append(elapsed / (_STEPS if name[1] == "scan" else 1))
    medians = {name: statistics.median(values) for name, values in times.items()}
    cells = [f"{size}x{size}x{in_channels} to {out_channels}, stride {stride}"]
    for place in ("call", "scan"):
        ours, theirs = medians["ours", place], medians["library", place]
        cells += [f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.1f}"]
    return tuple(cells)


def main() -> None:
    """Runs the benchmark."""
    files = sorted((ROOT / "configs").glob("[!_]*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", default=[str(file) for file in files])
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    compilation.set_cpu_flags()
    print(f"{describe_machine()}; {jax.devices()[0].device_kind}, JAX {jax.__version__}")
    print("milliseconds forward and backward, and how many times ours the library takes\n")
    header = ("layer", "ours", "library", "times", "ours in scan", "library in scan", "times")
    layers = layers_of(arguments.configs)
    rows = (time_layer(layer, arguments.batch_size, arguments.rounds) for layer in layers)
    print_table(header, rows)


if __name__ == "__main__":
    main()
