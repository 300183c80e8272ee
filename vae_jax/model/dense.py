"""Dense layers whose gradient to the input is fast on CPU too, and their activations.

That gradient is a product with the transposed kernel, which XLA's CPU back end gathers in strides
of a row. If the pages of a large kernel exceed the processor's table of pages (TLB), it waits for
each: with pages of 4 KiB, on a Xeon of 2023, for half of a training step. On CPU this module
transposes the two small matrices instead, the cotangent and the product.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from vae_jax.model import batch_axis

Activation = Callable[[jax.Array], jax.Array]

# swish is x sigmoid(x): Ramachandran et al. 2017 (arXiv:1710.05941).
ACTIVATIONS: dict[str, Activation] = {"relu": nn.relu, "swish": nn.swish}

# Kernels that fit any processor's table of pages.
_MAX_SMALL_BYTES = 2**19


def _with_transposed(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies `<float>[batch, columns]` with the transposed kernel."""
    if kernel.size * kernel.dtype.itemsize <= _MAX_SMALL_BYTES:
        return cotangent @ kernel.T
    # Barriers: XLA would transpose the kernel again.
    product = kernel @ jax.lax.optimization_barrier(cotangent.T)
    return jax.lax.optimization_barrier(product).T


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies `<float>[batch, rows]` with a kernel `<float>[rows, columns]`.

    Reverse-mode derivatives of any order, products too; `jax.jvp` raises JAX's error.
    """
    return x @ kernel


def _backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    x_gradient = jax.lax.platform_dependent(
        cotangent, kernel, cpu=_with_transposed, default=lambda g, kernel: g @ kernel.T
    )
    return x_gradient, x.T @ cotangent


matmul.defvjp(lambda x, kernel: (matmul(x, kernel), (x, kernel)), _backward)


# A constructor rather than a class: Flax derives initial parameters from the class's name.
Dense = functools.partial(nn.Dense, dot_general=lambda x, kernel, *_, **__: matmul(x, kernel))


class DivisibleDense(nn.Module):
    """A dense layer; each device may have some rows of its kernel instead of a copy."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `<float>[batch, inputs]` to `<float>[batch, features]`."""
        given = self.get_variable("params", "kernel")
        shape = (x.shape[-1] if given is None else len(given), self.features)
        kernel = self.param("kernel", nn.linear.default_kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])[None]
        if len(kernel) == x.shape[-1]:
            return matmul(x, kernel) + bias
        return batch_axis.add_to_own_rows(matmul(batch_axis.own_columns(x), kernel)) + bias
