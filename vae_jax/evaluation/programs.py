"""A trained model's encoder and decoder as programs without this package: StableHLO and ONNX.

ONNX is made by the optional package jax2onnx: version 0.13 loses the stride of a transposed
convolution and refuses backward scans and choices by platform, so programs are traced without them.
"""

import dataclasses
import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax import export
from jax.extend import core

from vae_jax.model import conv_transpose
from vae_jax.model.priors import FlowPrior
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError, describe

PLATFORMS = ("cpu", "cuda", "tpu")
_ONNX_PACKAGE = "jax2onnx"


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of any number of rows, its parameters part of it."""

    function: Callable[..., Any]  # of an array `[n, ...]` for each input, to arrays of n rows
    inputs: dict[str, jax.ShapeDtypeStruct]  # shape and type by name, of a symbolic number of rows
    output_names: tuple[str, ...]


def programs_of(model: VAE, params: Params) -> dict[str, Program]:
    """Returns the encoder, the decoder and a flow's prior by name.

    The encoder maps intensities `<float32>[n, height, width, channels]` to mean and log-variance,
    `<float32>[n, latent]`; the decoder latents to mean intensities; the prior standard normal
    vectors to latents. Those of a conditional model take labels, `<int32>[n]`, as a second input.
    """
    params = devices.to_host(params)  # constants of the programs

    def encode(*known: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(apply(model, params, Batch(*known), method="posterior").to_arrays().values())

    def decode(latents: jax.Array, *known: jax.Array) -> jax.Array:
        outputs = apply(model, params, latents, Batch(None, *known), method="decode")
        return model.likelihood.mean(outputs)

    def from_base(base: jax.Array, *known: jax.Array) -> jax.Array:
        batch = Batch(None, *known)
        return apply(model, params, method=lambda model: model.prior(batch).from_base(base))

    [batch] = export.symbolic_shape("batch")
    image = jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.float32)
    known = {"labels": jax.ShapeDtypeStruct((batch,), jnp.int32)} if model.num_classes else {}
    inputs = {"images": image, **known}
    latent, _ = jax.eval_shape(encode, *inputs.values())
    programs = {
        "encoder": Program(encode, inputs, ("mean", "log_var")),
        "decoder": Program(decode, {"latents": latent, **known}, ("images",)),
    }
    if isinstance(model.prior, FlowPrior):
        programs["prior"] = Program(from_base, {"base": latent, **known}, ("latents",))
    return programs


def to_stablehlo(program: Program) -> bytes:
    """Compiles a program for each of `PLATFORMS`, as `jax.export.deserialize` reads it."""
    exported = export.export(jax.jit(program.function), platforms=PLATFORMS)
    return bytes(exported(*program.inputs.values()).serialize())


def has_onnx() -> bool:
    """Returns whether the package that converts to ONNX is installed."""
    return importlib.util.find_spec(_ONNX_PACKAGE) is not None


def to_onnx(name: str, program: Program) -> bytes:
    """Converts a program, named for its metadata.

    Raises:
      UserError: the package cannot convert it.
    """
    rows = [*program.inputs.values()]
    # Traced before the package replaces functions of JAX and Flax by its own.
    function = core.jaxpr_as_fun(trace_for_conversion(program, rows))
    for logger in (_ONNX_PACKAGE, "onnx_ir"):  # they warn of every untyped constant
        logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        model = importlib.import_module(_ONNX_PACKAGE).to_onnx(
            lambda *rows: tuple(function(*rows)),
            rows,
            model_name=name,
            input_names=[*program.inputs],
            output_names=[*program.output_names],
        )
    except Exception as error:  # the package raises errors of any type
        raise UserError(
            f"{_ONNX_PACKAGE} cannot convert the {name}: {describe(error)}; uninstall it to export "
            "without ONNX"
        ) from error
    return model.SerializeToString()


def trace_for_conversion(
    program: Program, rows: Sequence[jax.ShapeDtypeStruct]
) -> core.ClosedJaxpr:
    """Traces a program in operations that the package converts."""
    convolution = conv_transpose.conv_transpose_as_convolution
    with (
        mock.patch.object(conv_transpose, "conv_transpose", convolution),
        mock.patch.object(jax.lax, "platform_dependent", lambda *rows, cpu, **_: cpu(*rows)),
        mock.patch.object(jax.lax, "scan", functools.partial(_scan_forward, jax.lax.scan)),
    ):
        # A new function: JAX may have cached a trace of the original.
        return jax.make_jaxpr(lambda *rows: program.function(*rows))(*rows)


def _scan_forward(
    scan: Callable[..., Any], f: Any, init: Any, xs: Any, *, reverse: bool = False, **options: Any
) -> tuple[Any, Any]:
    """Scans; a backward scan becomes a forward one over reversed rows."""
    if not reverse:
        return scan(f, init, xs, **options)
    carry, outputs = scan(f, init, _reversed(xs), **options)
    return carry, _reversed(outputs)


def _reversed(tree: Any) -> Any:
    return jax.tree.map(lambda array: jax.lax.rev(array, (0,)), tree)
