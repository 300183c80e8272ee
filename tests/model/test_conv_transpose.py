"""The layer against the one it stands in for, over drawn shapes, and every derivative of it."""

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
        "seed": st.integers(0, 2**31),
    }
)


def assert_equal_values_and_gradients(case, dtype, tolerance, batch_size=2):
    generator = np.random.RandomState(case["seed"])
    names = ("features", "kernel_size", "strides", "padding")
    ours, library = (
        layer(**{name: case[name] for name in names}) for layer in (ConvTranspose, nn.ConvTranspose)
    )
    shapes = (
        (*case["kernel_size"], case["in_channels"], case["features"]),
        (case["features"],),
        (batch_size, *case["size"], case["in_channels"]),
    )
    arguments = [generator.normal(size=shape).astype(dtype) for shape in shapes]

    def apply(layer, kernel, bias, x):
        return layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    shape = jax.eval_shape(functools.partial(apply, library), *arguments).shape
    # A weight for each output: in a plain sum, errors in places could cancel.
    weights = generator.normal(size=shape).astype(dtype)

    # Unoptimized, since compiling takes nearly all of a drawn case's time.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def values_and_gradients(*arguments):
        results = []
        for layer in (ours, library):
            value, vjp = jax.vjp(functools.partial(apply, layer), *arguments)
            results.append((value, *vjp(weights)))
        return results

    actual, expected = values_and_gradients(*arguments)
    assert [a.shape for a in actual] == [e.shape for e in expected]
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=CASES)
def test_equals_the_library_in_float32(case):
    assert_equal_values_and_gradients(case, jnp.float32, 2e-4)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=CASES)
def test_equals_the_library_in_float64(case):
    with jax.enable_x64(True):
        assert_equal_values_and_gradients(case, jnp.float64, 1e-11)


@pytest.mark.parametrize("batch_size", [1, 6, 7])
def test_gradients_of_a_few_images_at_a_time_are_those_of_all(batch_size, monkeypatch):
    module = sys.modules[ConvTranspose.__module__]
    x = jnp.ones((batch_size, 5, 4, 6))
    kernel = jnp.ones((3, 2, 6, 4))
    # Windows of 5 x 4 places, each of 3 x 2 pixels of 4 channels, of two images and a bit.
    monkeypatch.setattr(module, "_MAX_WINDOW_BYTES", 5 * 4 * 3 * 2 * 4 * 4 * 2 + 1)
    assert module._num_pieces(x, kernel) == {1: 1, 6: 3, 7: 7}[batch_size]
    case = {
        "size": (5, 4),
        "in_channels": 6,
        "features": 4,
        "kernel_size": (3, 2),
        "strides": (1, 1),
        "padding": "SAME",
        "seed": 0,
    }
    assert_equal_values_and_gradients(case, jnp.float32, 2e-4, batch_size)


def test_parameters_are_the_librarys():
    x = jnp.ones((1, 4, 4, 3))
    ours = ConvTranspose(5, (3, 2), (2, 1)).init(jax.random.key(0), x)
    library = nn.ConvTranspose(5, (3, 2), (2, 1)).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours, library)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": None},
        {"strides": 2},
        {"use_bias": False},
        {"dtype": jnp.bfloat16},
        {"param_dtype": jnp.float16},
        {"kernel_init": nn.initializers.ones_init(), "bias_init": nn.initializers.ones_init()},
    ],
)
@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
def test_options_and_batch_shapes_are_the_librarys(options, batch_shape):
    x = jax.random.normal(jax.random.key(1), (*batch_shape, 4, 5, 6))
    ours, library = (
        layer(3, (3, 3), **options).init_with_output(jax.random.key(0), x)
        for layer in (ConvTranspose, nn.ConvTranspose)
    )
    jax.tree.map(np.testing.assert_array_equal, ours[1], library[1])
    assert ours[0].dtype == library[0].dtype
    tolerance = 0.05 if ours[0].dtype == jnp.bfloat16 else 1e-3
    actual, expected = (np.asarray(out, np.float32) for out, _ in (ours, library))
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_another_number_of_axes_is_an_error():
    with pytest.raises(ValueError, match=r"kernel_size is \(3,\), must be a height and a width"):
        ConvTranspose(2, (3,)).init(jax.random.key(0), jnp.ones((1, 4, 1)))


@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_vmap_is_one_by_one(in_axes, strides):
    xs = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 6))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 6, 2))
    arguments = [a if axis == 0 else a[0] for a, axis in zip((xs, kernels), in_axes, strict=True)]

    def value_and_gradients(x, kernel):
        value, vjp = jax.vjp(lambda x, kernel: conv_transpose(x, kernel, strides), x, kernel)
        return value, *vjp(jnp.sin(value))

    together = jax.jit(jax.vmap(value_and_gradients, in_axes))(*arguments)
    for index in range(3):
        one = [a if axis is None else a[index] for a, axis in zip(arguments, in_axes, strict=True)]
        for actual, expected in zip(together, value_and_gradients(*one), strict=True):
            np.testing.assert_allclose(actual[index], expected, rtol=1e-4, atol=1e-4)


def test_forward_mode_is_an_error():
    x, kernel = jnp.ones((1, 4, 4, 6)), jnp.ones((3, 3, 6, 2))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: conv_transpose(x, kernel, (1, 1)), (x,), (x,))


def test_stride_one_is_a_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 6))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 6, 2))
    expected = nn.Conv(2, (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(conv_transpose(x, kernel, (1, 1)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("in_channels", "out_channels"), [(2, 2), (6, 2), (6, 9)])
def test_second_derivatives_equal_numerical_ones(in_channels, out_channels, stride):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (1, 3, 3, in_channels), jnp.float64)
        kernel = jax.random.normal(
            jax.random.key(1), (3, 3, in_channels, out_channels), jnp.float64
        )
        check_grads(
            lambda *a: conv_transpose(*a, (stride, stride)), (x, kernel), order=2, modes=["rev"]
        )


def test_the_same_inside_a_scan():
    x = jax.random.normal(jax.random.key(0), (2, 7, 7, 6))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 6, 4))

    def gradient(kernel):
        return jax.grad(lambda k: jnp.square(conv_transpose(x, k, (2, 2))).sum())(kernel)

    _, scanned = jax.lax.scan(lambda _, k: (None, gradient(k)), None, jnp.stack([kernel, -kernel]))
    np.testing.assert_allclose(scanned[0], gradient(kernel), rtol=1e-4)
    np.testing.assert_allclose(scanned[1], gradient(-kernel), rtol=1e-4)


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
    with pytest.raises(ValueError, match="padding is 'same', must be 'SAME' or 'VALID'"):
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
