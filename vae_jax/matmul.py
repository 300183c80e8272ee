"""Matrix products whose gradients are fast on CPU too, and the dense layer made of them.

The gradient of `x @ kernel` by `x` is a product with the transposed kernel. XLA's CPU back end
copies the whole of that kernel, a few numbers from each of many rows at a time, which for a large
one takes longer than the arithmetic. On CPU this module takes a part of the rows at a time, as
many as stay in a core's cache. `benchmarks/dense.py` measures both.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax

# A kernel of more bytes than this is taken in parts of at most so many.
_MAX_KERNEL_BYTES = 2**21


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Matrix product, `<float>[rows, in]` times `<float>[in, out]`.

    Its derivatives are products too, without a transposed copy. Reverse mode only, of any order.
    """
    return x @ kernel


def _backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    num_parts = _num_parts(kernel)
    if num_parts == 1:
        x_gradient = cotangent @ kernel.T
    else:
        x_gradient = jax.lax.platform_dependent(
            cotangent,
            kernel,
            cpu=functools.partial(_times_transposed, num_parts=num_parts),
            default=lambda cotangent, kernel: cotangent @ kernel.T,
        )
    return x_gradient, x.T @ cotangent


matmul.defvjp(lambda x, kernel: (matmul(x, kernel), (x, kernel)), _backward)


def _num_parts(kernel: jax.Array) -> int:
    """In how many parts, of as many rows each, a kernel is taken; 1 if it is small or cannot be."""
    rows, num_bytes = len(kernel), kernel.size * kernel.dtype.itemsize
    fewest = math.ceil(num_bytes / _MAX_KERNEL_BYTES)
    # Not far smaller parts, down to single rows of a prime number of them.
    divisors = (n for n in range(fewest, 4 * fewest) if rows % n == 0)
    return next(divisors, 1)


def _times_transposed(cotangent: jax.Array, kernel: jax.Array, num_parts: int) -> jax.Array:
    """`cotangent @ kernel.T`, a part of the kernel's rows at a time."""
    parts = kernel.reshape(num_parts, -1, kernel.shape[1])
    out = jax.lax.map(lambda part: part @ cotangent.T, parts)
    return out.reshape(-1, len(cotangent)).T


def _dot_general(x: jax.Array, kernel: jax.Array, _: Any, precision: Any = None) -> jax.Array:
    """What `flax.linen.Dense` asks for: the product over the last axis of `x`."""
    del precision  # The layers here leave it at JAX's own.
    out = matmul(x.reshape(-1, x.shape[-1]), kernel)
    return out.reshape(*x.shape[:-1], -1)


# `flax.linen.Dense`: the same parameters, initialisation and outputs.
Dense = functools.partial(nn.Dense, dot_general=_dot_general)
