"""A trained model's encoder and decoder as programs that run without this package: StableHLO."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from vae_jax.model.priors import FlowPrior
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime import devices

PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of any number of rows, its parameters part of it."""

    # From one array `[n, ...]` for each input to arrays of n rows.
    function: Callable[..., tuple[jax.Array, ...]]
    inputs: Mapping[str, jax.ShapeDtypeStruct]  # shape and type of a row, by name
    output_names: tuple[str, ...]

    def abstract_rows(self) -> list[jax.ShapeDtypeStruct]:
        """Returns shapes and types of the inputs, with a symbolic number of rows."""
        scope = export.SymbolicScope()
        return [
            jax.ShapeDtypeStruct(
                export.symbolic_shape(", ".join(("batch", *map(str, row.shape))), scope=scope),
                row.dtype,
            )
            for row in self.inputs.values()
        ]


def programs_of(model: VAE, params: Params) -> dict[str, Program]:
    """Returns the encoder, the decoder and a flow's prior by name.

    The encoder maps intensities in [0, 1], `<float32>[n, height, width, channels]`, to the arrays
    of `Posterior.to_arrays`, each `<float32>[n, latent]`; the decoder maps latents to means of
    intensities. If the prior is a flow, "prior" maps standard normal vectors to latents. A
    conditional model's programs take labels, `<int32>[n]`, as a second input.
    """
    params = devices.to_host(params)  # constants of the programs

    def posterior_arrays(*known: jax.Array) -> dict[str, jax.Array]:
        return apply(model, params, Batch(*known), method="posterior").to_arrays()

    def decode(latents: jax.Array, *known: jax.Array) -> tuple[jax.Array]:
        outputs = apply(model, params, latents, Batch(None, *known), method="decode")
        return (model.likelihood.mean(outputs),)

    def from_base(base: jax.Array, *known: jax.Array) -> tuple[jax.Array]:
        batch = Batch(None, *known)
        return (apply(model, params, method=lambda model: model.prior(batch).from_base(base)),)

    image = jax.ShapeDtypeStruct(model.image_shape, jnp.float32)
    known = {"labels": jax.ShapeDtypeStruct((), jnp.int32)} if model.num_classes else {}
    rows = (jax.ShapeDtypeStruct((1, *row.shape), row.dtype) for row in (image, *known.values()))
    arrays = jax.eval_shape(posterior_arrays, *rows)
    latent = jax.ShapeDtypeStruct(arrays["mean"].shape[1:], jnp.float32)
    programs = {
        "encoder": Program(
            lambda *known: tuple(posterior_arrays(*known).values()),
            {"images": image, **known},
            tuple(arrays),
        ),
        "decoder": Program(decode, {"latents": latent, **known}, ("images",)),
    }
    if isinstance(model.prior, FlowPrior):
        programs["prior"] = Program(from_base, {"base": latent, **known}, ("latents",))
    return programs


def to_stablehlo(program: Program) -> bytes:
    """Compiles a program for each of `PLATFORMS`, as `jax.export.deserialize` reads it."""

    def function(*rows: jax.Array) -> Any:
        results = program.function(*rows)
        return results[0] if len(results) == 1 else results

    exported = export.export(jax.jit(function), platforms=PLATFORMS)
    return bytes(exported(*program.abstract_rows()).serialize())
