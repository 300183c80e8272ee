"""A trained model's programs as ONNX, by the optional package jax2onnx.

What it cannot convert, or converts wrongly, is given to it in another form: transposed
convolutions as ordinary ones, products without rules of their own for derivatives, the CPU's form
of what depends on the platform, and scans that run backward as ones over reversed rows.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.extend import core

from vae_jax.evaluation.programs import Program
from vae_jax.model.conv_transpose import ConvTranspose, conv_transpose_as_convolution
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError, describe

PACKAGE = "jax2onnx"
# Between what ONNX Runtime and JAX compute of the same rows.
_TOLERANCE = 1e-4
# Of the rows that are compared.
_NUM_ROWS = 3
# What ONNX Runtime tells of: errors, not constants that the converter left unused.
_ORT_ERROR = 3


def is_installed() -> bool:
    """Tells whether the package that converts is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def _version() -> str:
    return importlib.metadata.version(PACKAGE)


def to_onnx(name: str, program: Program) -> bytes:
    """Converts a program; ONNX Runtime must compute what JAX does, to 1e-4.

    Args:
      name: what the program is called.
      program: what is converted.

    Raises:
      UserError: the package cannot convert it, or does so wrongly.
    """
    advice = (
        f"{PACKAGE} {_version()} cannot convert the {name}: "
        "{}; install another version of it, or none to export without ONNX"
    )
    try:
        content = _convert(name, program)
        difference = _largest_difference(program, content)
    except Exception as error:  # the packages raise anything
        raise UserError(advice.format(describe(error))) from error
    if not difference <= _TOLERANCE:
        raise UserError(advice.format(f"what it makes is off by {difference:.2g}"))
    return content


def _convert(name: str, program: Program) -> bytes:
    rows = program.abstract_rows()
    # Before the package is imported or at work: it replaces functions of JAX's and Flax's.
    function = core.jaxpr_as_fun(trace_for_conversion(program, rows))
    with _quiet():
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
    with nn.intercept_methods(_in_plain_operations):
        # A function of its own: JAX may have kept a trace of the other, without the interceptor.
        traced = jax.make_jaxpr(lambda *rows: program.function(*rows))(*rows)
    return _for_conversion(traced)


def _for_conversion(traced: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """Returns the program with the CPU's forms, and scans that run forward."""
    operations = [
        _runs_forward(_without_platforms(operation))
        for operation in traced.jaxpr.eqns
        if operation.primitive.name != "platform_index"  # which only those choices use
    ]
    return core.ClosedJaxpr(traced.jaxpr.replace(eqns=operations), traced.consts)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the packages from telling of every operation they do not know."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(previous)


def _in_plain_operations(
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    named_arguments: Mapping[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Takes the place of `__call__` of `Dense` and `ConvTranspose`, other methods as they are."""
    module = context.module
    if not isinstance(module, nn.Dense | ConvTranspose):
        return call(*arguments, **named_arguments)
    [x], params = arguments, module.variables["params"]
    if isinstance(module, nn.Dense):
        return x @ params["kernel"] + params["bias"]
    form = conv_transpose_as_convolution
    return form(x, params["kernel"], module.strides_pair, module.padding) + params["bias"]


def _without_platforms(operation: core.JaxprEqn) -> core.JaxprEqn:
    """Returns the operation; in the place of a choice by platform, the function of the CPU."""
    params = operation.params
    if operation.primitive.name != "cond" or not params["branches_platforms"]:
        return operation
    pairs = zip(params["branches"], params["branches_platforms"], strict=True)
    branch = next(branch for branch, names in pairs if names is None or "cpu" in names)
    function = core.jaxpr_as_fun(_for_conversion(branch))
    return _call_in_place_of(operation, function, operation.invars[1:])


def _call_in_place_of(
    operation: core.JaxprEqn, function: Callable[..., Any], inputs: Sequence[Any]
) -> core.JaxprEqn:
    """Returns a call of the function, whose results are the operation's."""
    [call] = jax.make_jaxpr(jax.jit(function))(*(atom.aval for atom in inputs)).eqns
    return call.replace(invars=[*inputs], outvars=operation.outvars)


def _runs_forward(operation: core.JaxprEqn) -> core.JaxprEqn:
    """Returns the operation; in the place of a backward scan, a function with a forward one."""
    params = operation.params
    if operation.primitive.name != "scan" or not params["reverse"]:
        return operation
    num_carry = params["num_carry"]
    num_whole = params["num_consts"] + num_carry

    def scan(*inputs: jax.Array) -> list[jax.Array]:
        rows = _reversed(inputs[num_whole:])
        results = operation.primitive.bind(
            *inputs[:num_whole], *rows, **{**params, "reverse": False}
        )
        return [*results[:num_carry], *_reversed(results[num_carry:])]

    return _call_in_place_of(operation, scan, operation.invars)


def _reversed(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    return [jax.lax.rev(array, (0,)) for array in arrays]


def _largest_difference(program: Program, content: bytes) -> float:
    """Compares what ONNX Runtime and JAX make of a few rows."""
    onnxruntime = importlib.import_module("onnxruntime")
    random = np.random.default_rng(0)
    rows = [  # labels among them are all 0
        random.uniform(size=(_NUM_ROWS, *row.shape)).astype(row.dtype)
        for row in program.inputs.values()
    ]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ORT_ERROR
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = session.run([*program.output_names], dict(zip(program.inputs, rows, strict=True)))
    expected = devices.to_host(jax.jit(program.function)(*devices.to_device(rows)))
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(one - other).max()) for one, other in pairs)
