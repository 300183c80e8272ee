"""Dense layers whose gradient to the input is fast on CPU too, and their activations.

That gradient is a product with the transposed kernel, which XLA's CPU back end gathers in strides
of a row. If the pages of a large kernel exceed the processor's table of pages (TLB), it waits for
each, for half of a training step. On CPU a few of the kernel's rows are multiplied at a time.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

Activation = Callable[[jax.Array], jax.Array]

# swish is x sigmoid(x): Ramachandran et al. 2017 (arXiv:1710.05941).
ACTIVATIONS: dict[str, Activation] = {"relu": nn.relu, "swish": nn.swish}

# A piece of a kernel is at most 128 pages, which fit any core's cache and table of pages; fewer
# rows than these are not worth a product.
_MAX_PIECE_BYTES = 2**19
_MIN_PIECE_ROWS = 32


def _in_pieces(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies `<float>[batch, columns]` with the transposed kernel, some rows at a time."""
    num_rows, num_bytes = len(kernel), kernel.size * kernel.dtype.itemsize
    divisors = (n for n in range(1, num_rows // _MIN_PIECE_ROWS + 1) if num_rows % n == 0)
    num_pieces = next((n for n in divisors if num_bytes <= n * _MAX_PIECE_BYTES), 1)
    if num_pieces == 1:
        return cotangent @ kernel.T
    pieces = kernel.reshape(num_pieces, -1, kernel.shape[1])
    products = jax.lax.map(lambda piece: cotangent @ piece.T, pieces)
    return products.swapaxes(0, 1).reshape(len(cotangent), -1)


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
        cotangent, kernel, cpu=_in_pieces, default=lambda g, kernel: g @ kernel.T
    )
    return x_gradient, x.T @ cotangent


matmul.defvjp(lambda x, kernel: (matmul(x, kernel), (x, kernel)), _backward)


# A constructor rather than a class: Flax derives initial parameters from the class's name.
Dense = functools.partial(nn.Dense, dot_general=lambda x, kernel, *_, **__: matmul(x, kernel))
