"""The dense layer against Flax's, whether its gradient is taken in pieces or not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.model import dense


def arrays_of(num_rows, num_columns, batch_size=5):
    generator = np.random.RandomState(0)
    shapes = ((batch_size, num_rows), (num_rows, num_columns), (batch_size, num_columns))
    return [jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("num_rows", [1024, 96])
def test_products_and_gradients_are_those_of_a_plain_product(num_rows):
    x, kernel, cotangent = arrays_of(num_rows, 512)
    out, vjp = jax.vjp(jax.jit(dense.matmul), x, kernel)
    expected = (x @ kernel, cotangent @ kernel.T, x.T @ cotangent)
    for ours, plain in zip((out, *vjp(cotangent)), expected, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


def test_replicas_have_their_own_products():
    x, kernel, _ = arrays_of(1024, 512)
    kernels = jnp.stack([kernel, 2.0 * kernel])
    gradient = jax.grad(lambda x, kernel: jnp.sin(dense.matmul(x, kernel)).sum())
    together = jax.vmap(gradient, in_axes=(None, 0))(x, kernels)
    expected = jnp.stack([gradient(x, kernel) for kernel in kernels])
    np.testing.assert_allclose(together, expected, rtol=1e-3, atol=1e-3)


def test_parameters_and_outputs_are_flax_own():
    x, key = arrays_of(40, 3)[0], jax.random.key(0)
    ours, theirs = (
        nn.Sequential([layer(7), layer(3, name="head")]) for layer in (dense.Dense, nn.Dense)
    )
    params = theirs.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(key, x), params)
    np.testing.assert_array_equal(ours.apply(params, x), theirs.apply(params, x))
