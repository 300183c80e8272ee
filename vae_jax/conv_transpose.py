"""Transposed convolution that is fast on CPU too: a drop-in for `flax.linen.ConvTranspose`.

XLA's CPU back end runs the library's transposed convolution, and inside a loop the kernel
gradient of every convolution, many times slower than its arithmetic takes. On CPU this
module therefore computes the sub-pixel form (Shi et al. 2016, arXiv:1609.07009): a
transposed convolution of stride s is s x s ordinary ones, one for each phase of the output
grid, evaluated together and interleaved. Other platforms use the library's own.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# Up to this many input channels the patches are so narrow that gathering them for one
# matrix product beats the library's convolution.
_MAX_CHANNELS_AS_PATCHES = 4


def _phases(kernel_size: int, stride: int, padding: str) -> tuple[np.ndarray, int]:
    """Which kernel taps meet which neighbours, along one axis.

    Output position stride * q + r sums x[q + offset] * kernel[tap] over those taps for which
    r + tap - pad is a multiple of the stride; the quotient is the offset. `pad` is what
    `jax.lax.conv_transpose` pads before the first pixel of the dilated input.

    Returns:
      `(selection, first)`: `selection[r, o, tap]` is 1 where phase r applies the tap to the
      neighbour at offset `first + o`, else 0.
    """
    if padding == "SAME" and stride <= kernel_size - 1:
        pad = math.ceil((kernel_size + stride - 2) / 2)
    else:
        pad = kernel_size - 1
    meetings = [
        (phase, (phase + tap - pad) // stride, tap)
        for phase in range(stride)
        for tap in range(kernel_size)
        if (phase + tap - pad) % stride == 0
    ]
    offsets = [offset for _, offset, _ in meetings]
    first = min(offsets)
    selection = np.zeros((stride, max(offsets) - first + 1, kernel_size))
    for phase, offset, tap in meetings:
        selection[phase, offset - first, tap] = 1
    return selection, first


def _output_size(size: int, kernel_size: int, stride: int, padding: str) -> int:
    """Length of the output along one axis, as `jax.lax.conv_transpose` has it."""
    return size * stride + (max(kernel_size - stride, 0) if padding == "VALID" else 0)


def _windows(x: jax.Array, kernel_shape: tuple[int, ...]) -> list[jax.Array]:
    """The input pixels each kernel tap sees: `[batch * height * width, channels]` for each tap."""
    kernel_height, kernel_width = kernel_shape[:2]
    batch, height, width, channels = x.shape
    height, width = height - kernel_height + 1, width - kernel_width + 1
    return [
        x[:, i : i + height, j : j + width, :].reshape(batch * height * width, channels)
        for i in range(kernel_height)
        for j in range(kernel_width)
    ]


@jax.custom_vjp
def _correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Ordinary convolution, stride 1, no padding; its kernel gradient is matrix products."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


def _correlate_forward(x: jax.Array, kernel: jax.Array):
    return _correlate(x, kernel), (x, kernel)


def _correlate_backward(residuals, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    full = [(size - 1, size - 1) for size in kernel.shape[:2]]
    x_gradient = jax.lax.conv_general_dilated(
        cotangent,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        full,
        dimension_numbers=_LAYOUT,
    )
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    products = [window.T @ rows for window in _windows(x, kernel.shape)]
    return x_gradient, jnp.stack(products).reshape(kernel.shape)


_correlate.defvjp(_correlate_forward, _correlate_backward)


def _correlate_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same convolution as one matrix product of gathered patches."""
    patches = jnp.concatenate(_windows(x, kernel.shape), axis=-1)
    out = patches @ kernel.reshape(-1, kernel.shape[-1])
    height, width = (x.shape[1 + axis] - kernel.shape[axis] + 1 for axis in (0, 1))
    return out.reshape(x.shape[0], height, width, kernel.shape[-1])


def _subpixel(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str) -> jax.Array:
    """`jax.lax.conv_transpose` as one ordinary convolution, its phases interleaved."""
    batch, _, _, in_channels = x.shape
    out_channels = kernel.shape[-1]
    selections, pads, sizes, quotients = [], [(0, 0)], [], []
    for axis, stride in enumerate(strides):
        selection, first = _phases(kernel.shape[axis], stride, padding)
        size = _output_size(x.shape[1 + axis], kernel.shape[axis], stride, padding)
        quotient = -(-size // stride)
        last = first + selection.shape[1] - 1
        pads.append((-first, quotient - 1 + last - (x.shape[1 + axis] - 1)))
        selections.append(jnp.asarray(selection, kernel.dtype))
        sizes.append(size)
        quotients.append(quotient)
    if strides == (1, 1):
        phase_kernel = kernel
    else:
        phase_kernel = jnp.einsum("aik,bjl,klcd->ijcabd", *selections, kernel)
        phase_kernel = phase_kernel.reshape(*phase_kernel.shape[:3], -1)
    x = jnp.pad(x, [*pads, (0, 0)])
    correlate = _correlate_patches if in_channels <= _MAX_CHANNELS_AS_PATCHES else _correlate
    out = correlate(x, phase_kernel)
    out = out.reshape(batch, *quotients, *strides, out_channels).transpose(0, 1, 3, 2, 4, 5)
    out = out.reshape(batch, quotients[0] * strides[0], quotients[1] * strides[1], out_channels)
    return out[:, : sizes[0], : sizes[1]]


def _library(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str) -> jax.Array:
    return jax.lax.conv_transpose(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


def _on_platform(function_of, *arguments):
    """Applies what `function_of` makes of the form that is fast on the platform compiled for."""
    return jax.lax.platform_dependent(
        *arguments, cpu=function_of(_subpixel), default=function_of(_library)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_transpose(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str = "SAME"
) -> jax.Array:
    """Two-dimensional transposed convolution, equal to `jax.lax.conv_transpose`.

    Args:
      x: `<float>[batch, height, width, in_channels]`.
      kernel: `<float>[kernel_height, kernel_width, in_channels, out_channels]`.
      strides: how many output pixels an input pixel becomes, down and across.
      padding: "SAME" (the output is `strides` times the input) or "VALID".

    Returns:
      `<float>[batch, out_height, out_width, out_channels]`.

    Raises:
      ValueError: another padding is asked for.
    """
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding is {padding!r}, must be 'SAME' or 'VALID'")

    def convolve(form):
        return functools.partial(form, strides=strides, padding=padding)

    return _on_platform(convolve, x, kernel)


def _forward(x, kernel, strides, padding):
    return conv_transpose(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, residuals, cotangent):
    def gradients_of(form):
        def gradients(x, kernel, cotangent):
            _, vjp = jax.vjp(functools.partial(form, strides=strides, padding=padding), x, kernel)
            return vjp(cotangent)

        return gradients

    return _on_platform(gradients_of, *residuals, cotangent)


conv_transpose.defvjp(_forward, _backward)


class ConvTranspose(nn.Module):
    """Drop-in for `flax.linen.ConvTranspose`: same parameters, initialisation and outputs.

    Attributes:
      features: number of output channels.
      kernel_size: height and width of the kernel.
      strides: height and width of what an input pixel becomes.
      padding: "SAME" or "VALID".
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int] = (1, 1)
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `<float>[batch, height, width, channels]` to `[..., features]` channels."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return conv_transpose(x, kernel, tuple(self.strides), self.padding) + bias
