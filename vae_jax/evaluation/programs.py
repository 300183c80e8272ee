"""A trained model's encoder and decoder as programs that run without this package: StableHLO."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime import devices

PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of any number of rows, its parameters part of it.

    Attributes:
      function: from `<float32>[n, *row_shape]` to an array of n rows, or several.
      row_shape: the shape of a row of its input.
      input_name: what the rows are.
      output_names: what it gives.
    """

    function: Callable[[jax.Array], Any]
    row_shape: tuple[int, ...]
    input_name: str
    output_names: tuple[str, ...]

    def abstract_rows(self) -> jax.ShapeDtypeStruct:
        """Returns the input's shape, its number of rows left open, and its type."""
        sizes = ", ".join(("batch", *map(str, self.row_shape)))
        return jax.ShapeDtypeStruct(export.symbolic_shape(sizes), jnp.float32)


def programs_of(model: VAE, params: Params) -> dict[str, Program]:
    """Returns the encoder, the decoder and a flow's prior by name.

    The encoder maps intensities in [0, 1], `<float32>[n, height, width, channels]`, to mean and
    log-variance of q(z | x), each `<float32>[n, latent]`; the decoder maps latents to means of
    intensities. Where the prior is a flow, "prior" maps standard normal vectors to latents.
    """
    params = devices.to_host(params)  # constants of the programs

    def encode(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return apply(model, params, images, method="encode")

    def decode(latents: jax.Array) -> jax.Array:
        return model.likelihood.mean(apply(model, params, latents, method="decode"))

    image = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    latent_shape = jax.eval_shape(encode, image)[0].shape[1:]
    programs = {
        "encoder": Program(encode, model.image_shape, "images", ("mean", "log_var")),
        "decoder": Program(decode, latent_shape, "latents", ("images",)),
    }
    if model.prior.is_flow:
        from_base = functools.partial(apply, model, params, method="from_base")
        programs["prior"] = Program(from_base, latent_shape, "base", ("latents",))
    return programs


def to_stablehlo(program: Program) -> bytes:
    """Compiles a program for each of `PLATFORMS`, as `jax.export.deserialize` reads it."""
    exported = export.export(jax.jit(program.function), platforms=PLATFORMS)
    return bytes(exported(program.abstract_rows()).serialize())
