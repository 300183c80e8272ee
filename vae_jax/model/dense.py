"""Dense layers whose gradient to the input is fast on CPU too, whatever the size of its pages.

That gradient is a product with the transposed kernel, which XLA's CPU back end gathers in strides
of a row. Where the pages of a large kernel are more than the processor's table of pages (TLB) holds
it waits for each: with pages of 4 KiB, on a Xeon of 2023, for half of a training step. On CPU this
module multiplies a few of the kernel's rows at a time.
"""

import functools
from typing import Any

import flax.linen as nn
import jax

# What is multiplied at a time is 128 pages at most, which any core's cache and table of pages hold;
# fewer rows than these are not worth a product.
_MAX_PIECE_BYTES = 2**19
_MIN_PIECE_ROWS = 32


def _num_pieces(kernel: jax.Array) -> int:
    """Counts the pieces, of equal size, in which a kernel's rows are multiplied."""
    num_rows, num_bytes = len(kernel), kernel.size * kernel.dtype.itemsize
    divisors = (n for n in range(1, num_rows // _MIN_PIECE_ROWS + 1) if num_rows % n == 0)
    return next((n for n in divisors if num_bytes <= n * _MAX_PIECE_BYTES), 1)


def _in_pieces(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies `<float>[batch, columns]` with the transposed kernel, some rows at a time."""
    num_pieces = _num_pieces(kernel)
    if num_pieces == 1:
        return cotangent @ kernel.T
    pieces = kernel.reshape(num_pieces, -1, kernel.shape[1])
    products = jax.lax.map(lambda piece: cotangent @ piece.T, pieces)
    return products.swapaxes(0, 1).reshape(len(cotangent), -1)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies `<float>[batch, rows]` with a kernel `<float>[rows, columns]`.

    Reverse-mode derivatives of any order; forward mode (`jax.jvp`) is an error of JAX's.
    """
    return x @ kernel


def _backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    x_gradient = jax.lax.platform_dependent(
        cotangent, kernel, cpu=_in_pieces, default=lambda g, kernel: g @ kernel.T
    )
    return x_gradient, x.T @ cotangent


matmul.defvjp(lambda x, kernel: (matmul(x, kernel), (x, kernel)), _backward)


def _dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """Does what `flax.linen.Dense` asks of `jax.lax.dot_general`, of `<float>[batch, features]`."""
    return matmul(x, kernel)


# A constructor and no class: Flax derives the initial parameters from the class's name.
Dense = functools.partial(nn.Dense, dot_general=_dot_general)
