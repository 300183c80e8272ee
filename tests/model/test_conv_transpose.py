"""The layer against Flax's own, over drawn shapes, and each of its derivatives."""

import functools
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from vae_jax.model.conv_transpose import (
    ConvTranspose,
    conv_transpose,
    conv_transpose_as_convolution,
)

PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))
CASES = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(1, 5), st.integers(1, 5)),
        # Above and below the numbers of channels at which the form of the product changes.
        "in_channels": st.sampled_from([1, 3, 5, 6]),
        "features": st.sampled_from([1, 3, 8, 9]),
        "kernel_size": PAIRS,
        "strides": PAIRS,
        "padding": st.sampled_from(["SAME", "VALID"]),
    }
)


def assert_equal_values_and_gradients(case, dtype=jnp.float32, tolerance=2e-4, batch_size=2):
    generator = np.random.RandomState(0)
    fields = {name: case[name] for name in ("features", "kernel_size", "strides", "padding")}
    shapes = (
        (*case["kernel_size"], case["in_channels"], case["features"]),
        (case["features"],),
        (batch_size, *case["size"], case["in_channels"]),
    )
    arguments = [generator.normal(size=shape).astype(dtype) for shape in shapes]

    def apply(layer, kernel, bias, x):
        return layer(**fields).apply({"params": {"kernel": kernel, "bias": bias}}, x)

    shape = jax.eval_shape(functools.partial(apply, nn.ConvTranspose), *arguments).shape
    # A weight for each output: in a plain sum, errors in places could cancel.
    weights = generator.normal(size=shape).astype(dtype)

    # Unoptimized, since compiling takes nearly all of a drawn case's time.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def values_and_gradients(*arguments):
        results = []
        for layer in (ConvTranspose, nn.ConvTranspose):
            value, vjp = jax.vjp(functools.partial(apply, layer), *arguments)
            results.append((value, *vjp(weights)))
        return results

    for actual, expected in zip(*values_and_gradients(*arguments), strict=True):
        assert (actual.shape, actual.dtype) == (expected.shape, dtype)
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(case=CASES)
def test_equals_the_library_in_float32(case):
    assert_equal_values_and_gradients(case)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=CASES)
def test_equals_the_library_in_float64(case):
    with jax.enable_x64(True):
        assert_equal_values_and_gradients(case, jnp.float64, 1e-11)


@pytest.mark.parametrize(("batch_size", "num_pieces"), [(1, 1), (6, 3), (7, 7)])
def test_gradients_of_a_few_images_at_a_time_are_those_of_all(batch_size, num_pieces, monkeypatch):
    module = sys.modules[ConvTranspose.__module__]
    case = {"size": (5, 4), "in_channels": 6, "features": 4, "kernel_size": (3, 2)}
    # Windows of 5 x 4 places, each of 3 x 2 pixels of 4 channels, of two images and a bit.
    monkeypatch.setattr(module, "_MAX_WINDOW_BYTES", 5 * 4 * 3 * 2 * 4 * 4 * 2 + 1)
    images, kernel = jnp.ones((batch_size, 5, 4, 6)), jnp.ones((3, 2, 6, 4))
    assert module._num_pieces(images, kernel) == num_pieces
    case |= {"strides": (1, 1), "padding": "SAME"}
    assert_equal_values_and_gradients(case, batch_size=batch_size)


@pytest.mark.parametrize(
    ("options", "batch_shape"),
    [
        ({"strides": None}, ()),
        ({"strides": 2}, (2, 3)),
        ({"strides": (2, 1), "use_bias": False}, (2,)),
        ({"dtype": jnp.bfloat16}, (2,)),
        ({"param_dtype": jnp.float16, "bias_init": nn.initializers.ones_init()}, (2,)),
        # Computed by the library.
        ({"padding": "CIRCULAR"}, (2,)),
        ({"padding": ((1, 2), (0, 1))}, (2,)),
        ({"kernel_dilation": 2}, (2,)),
        ({"transpose_kernel": True}, (2,)),
        ({"mask": np.tril(np.ones((3, 3)))[..., None, None] * np.ones((6, 3))}, (2,)),
        ({"kernel_size": (3,)}, (2,)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_options_and_parameters_are_the_librarys(options, batch_shape):
    x = jax.random.normal(jax.random.key(1), (*batch_shape, 4, 5, 6))
    ours, library = (
        layer(3, **{"kernel_size": (3, 3)} | options).init_with_output(jax.random.key(0), x)
        for layer in (ConvTranspose, nn.ConvTranspose)
    )
    jax.tree.map(np.testing.assert_array_equal, ours[1], library[1])
    assert ours[0].dtype == library[0].dtype
    tolerance = 0.05 if ours[0].dtype == jnp.bfloat16 else 1e-3
    actual, expected = (np.asarray(out, np.float32) for out, _ in (ours, library))
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("in_axes", "strides", "out_channels"),
    [((0, 0), (1, 1), 9), ((0, 0), (2, 2), 2), ((0, None), (1, 1), 2), ((None, 0), (2, 2), 9)],
)
def test_vmap_is_one_by_one(in_axes, strides, out_channels):
    xs = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 6))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 6, out_channels))
    arguments = [a if axis == 0 else a[0] for a, axis in zip((xs, kernels), in_axes, strict=True)]

    @jax.jit
    def value_and_gradients(x, kernel):
        value, vjp = jax.vjp(lambda x, kernel: conv_transpose(x, kernel, strides), x, kernel)
        return value, *vjp(jnp.sin(value))

    together = jax.jit(jax.vmap(value_and_gradients, in_axes))(*arguments)
    for index in range(3):
        one = [a if axis is None else a[index] for a, axis in zip(arguments, in_axes, strict=True)]
        for actual, expected in zip(together, value_and_gradients(*one), strict=True):
            np.testing.assert_allclose(actual[index], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride"), [(2, 2, 2), (6, 2, 1), (6, 2, 2), (6, 9, 1)]
)
def test_second_derivatives_equal_numerical_ones(in_channels, out_channels, stride):
    shapes = (1, 3, 3, in_channels), (3, 3, in_channels, out_channels)
    with jax.enable_x64(True):
        arrays = [jax.random.normal(jax.random.key(i), shapes[i], jnp.float64) for i in range(2)]
        function = jax.jit(lambda *a: conv_transpose(*a, (stride, stride)))
        check_grads(function, arrays, 2, modes=["rev"])


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_run_the_librarys_own(platform):
    def lowered(platform):
        shapes = ((2, 7, 7, 6), (3, 3, 6, 4))
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        function = jax.jit(lambda x, kernel: conv_transpose(x, kernel, (2, 2)))
        return function.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()

    # The library's form dilates its input by the stride; the sub-pixel form does not.
    assert "lhs_dilate = [2, 2]" in lowered(platform)
    assert "lhs_dilate = [2, 2]" not in lowered("cpu")


def test_another_padding_is_an_error():
    with pytest.raises(ValueError, match="padding is 'same'"):
        conv_transpose(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1)), (1, 1), "same")


@pytest.mark.parametrize(
    ("kernel_size", "strides", "padding"),
    [((3, 3), (2, 2), "SAME"), ((3, 2), (1, 4), "SAME"), ((2, 3), (3, 2), "VALID")],
)
def test_as_one_convolution_it_is_the_same(kernel_size, strides, padding):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 3, 5)).astype(np.float32)
    kernel = rng.normal(size=(*kernel_size, 5, 2)).astype(np.float32)
    found, expected = (
        form(x, kernel, strides, padding)
        for form in (conv_transpose_as_convolution, conv_transpose)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
