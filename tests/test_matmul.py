"""The product and the dense layer against NumPy and Flax, the kernel whole and in parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vae_jax import matmul
from vae_jax.matmul import Dense

ROW_BYTES = 5 * 4  # of a kernel with five columns


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(matmul, "_MAX_KERNEL_BYTES", 4 * ROW_BYTES)


@pytest.mark.parametrize(
    "rows, num_parts",
    # 34 rows have only parts of 17, too large, or of 2 and 1, too small; 37 is a prime number.
    [(16, 1), (32, 2), (34, 1), (36, 3), (37, 1), (50, 5)],
)
def test_parts_are_as_few_as_can_be(monkeypatch, rows, num_parts):
    monkeypatch.setattr(matmul, "_MAX_KERNEL_BYTES", 16 * ROW_BYTES)
    assert matmul._num_parts(jnp.zeros((rows, 5))) == num_parts


@pytest.mark.parametrize("rows", [3, 7, 8, 12, 26])
def test_product_and_gradients_are_those_of_numpy(small_parts, rows):
    generator = np.random.RandomState(rows)
    x, kernel, cotangent = (
        generator.normal(size=shape).astype(np.float32) for shape in ((6, rows), (rows, 5), (6, 5))
    )
    out, vjp = jax.vjp(matmul.matmul, x, kernel)
    x_gradient, kernel_gradient = vjp(cotangent)
    np.testing.assert_allclose(out, x @ kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(x_gradient, cotangent @ kernel.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(kernel_gradient, x.T @ cotangent, rtol=1e-5, atol=1e-5)


def test_second_derivatives(small_parts):
    generator = np.random.RandomState(0)
    x, kernel = (generator.normal(size=shape) for shape in ((3, 8), (8, 5)))

    def function(x, kernel):
        return jnp.sin(matmul.matmul(x, kernel)).sum()

    check_grads(function, (x, kernel), order=2, modes=["rev"], rtol=2e-2)


def test_the_layer_is_flax_s(small_parts):
    x = np.random.RandomState(0).normal(size=(2, 3, 8)).astype(np.float32)
    variables = nn.Dense(5).init(jax.random.key(0), x)
    ours = Dense(5).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours, variables)

    def loss(layer, params, x):
        return jnp.sin(layer.apply(params, x)).sum()

    for apply_to in (x, x[0], x[0, 0]):
        results = [
            jax.value_and_grad(lambda p, x, layer=layer: loss(layer, p, x), argnums=(0, 1))(
                variables, apply_to
            )
            for layer in (Dense(5), nn.Dense(5))
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_gradients_of_several_replicas(small_parts):
    generator = np.random.RandomState(0)
    x, kernels, cotangent = (
        generator.normal(size=shape).astype(np.float32) for shape in ((2, 6, 8), (2, 8, 5), (6, 5))
    )

    def gradient(x, kernel):
        return jax.vjp(matmul.matmul, x, kernel)[1](cotangent)

    for together, x_i, kernel_i in zip(
        zip(*jax.vmap(gradient)(x, kernels), strict=True), x, kernels, strict=True
    ):
        for a, b in zip(together, gradient(x_i, kernel_i), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
