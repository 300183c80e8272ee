"""A trained model's programs as ONNX, by the optional package jax2onnx.

jax2onnx 0.13 loses the stride of a transposed convolution and refuses backward scans and choices
by platform, so programs are traced without them.
"""

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.extend import core

from vae_jax.evaluation.programs import Program
from vae_jax.model import conv_transpose
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError, describe

PACKAGE = "jax2onnx"
# Largest difference between the outputs of ONNX Runtime and of JAX for the same rows.
_TOLERANCE = 1e-4
_NUM_COMPARED_ROWS = 3
_ORT_ERROR = 3  # the severity of messages from which ONNX Runtime prints them


def is_installed() -> bool:
    """Returns whether the package that converts is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def to_onnx(name: str, program: Program) -> bytes:
    """Converts a program, named for its metadata; ONNX Runtime agrees with JAX to 1e-4.

    Raises:
      UserError: the package cannot convert it, or converts it wrongly.
    """
    try:
        content = _convert(name, program)
        difference = _largest_difference(program, content)
        if not difference <= _TOLERANCE:
            raise UserError(f"outputs differ by {difference:.2g}")
    except Exception as error:  # the packages raise errors of any type
        raise UserError(
            f"{PACKAGE} cannot convert the {name}: {describe(error)}; install another version of "
            "it, or uninstall it to export without ONNX"
        ) from error
    return content


def _convert(name: str, program: Program) -> bytes:
    rows = program.abstract_rows()
    # Traced before the package replaces functions of JAX and Flax by its own.
    function = core.jaxpr_as_fun(trace_for_conversion(program, rows))
    for logger in (PACKAGE, "onnx_ir"):  # they warn of every untyped constant
        logging.getLogger(logger).setLevel(logging.ERROR)
    model = importlib.import_module(PACKAGE).to_onnx(
        lambda *rows: tuple(function(*rows)),
        rows,
        model_name=name,
        input_names=[*program.inputs],
        output_names=[*program.output_names],
    )
    return model.SerializeToString()


def trace_for_conversion(
    program: Program, rows: Sequence[jax.ShapeDtypeStruct]
) -> core.ClosedJaxpr:
    """Traces a program in operations that the package converts."""
    convolution = conv_transpose.conv_transpose_as_convolution
    with (
        mock.patch.object(conv_transpose, "conv_transpose", convolution),
        mock.patch.object(jax.lax, "platform_dependent", _form_for_cpu),
        mock.patch.object(jax.lax, "scan", functools.partial(_scan_forward, jax.lax.scan)),
    ):
        # A new function: JAX may have cached a trace of the original.
        return jax.make_jaxpr(lambda *rows: program.function(*rows))(*rows)


def _form_for_cpu(*arguments: Any, cpu: Callable[..., Any], **_: Any) -> Any:
    return cpu(*arguments)


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


def _largest_difference(program: Program, content: bytes) -> float:
    """Compares the outputs of ONNX Runtime and of JAX for random rows; labels are all 0."""
    onnxruntime = importlib.import_module("onnxruntime")
    random = np.random.default_rng(0)
    rows = [
        random.uniform(size=(_NUM_COMPARED_ROWS, *row.shape)).astype(row.dtype)
        for row in program.inputs.values()
    ]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ORT_ERROR
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    outputs = session.run([*program.output_names], dict(zip(program.inputs, rows, strict=True)))
    expected = devices.to_host(jax.jit(program.function)(*devices.to_device(rows)))
    pairs = zip(outputs, expected, strict=True)
    return max(float(np.abs(one - other).max()) for one, other in pairs)
