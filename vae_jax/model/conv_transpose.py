"""Transposed convolution that is fast on CPU too: a drop-in for `flax.linen.ConvTranspose`.

XLA's CPU back end runs the library's transposed convolution, and inside a loop the kernel gradient
of every convolution, many times slower than the arithmetic takes. On CPU this module computes the
sub-pixel form (Shi et al. 2016, arXiv:1609.07009): a transposed convolution of stride s is s x s
ordinary ones, one for each phase of the output grid, evaluated together and interleaved; or, to few
channels, one matrix product whose columns are shifted and added; and every kernel gradient as a
matrix product. Other platforms use the library's own.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import export

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# Up to this many input channels a matrix product of gathered windows beats the library's
# convolution at stride 1, and so it does for the gradients; at other strides it always does.
_MAX_CHANNELS_AS_WINDOWS = 4
# Up to this many output channels the overlap-add beats gathered windows.
_MAX_CHANNELS_AS_TAPS = 8
# The gradients' windows and the overlap-add's products are made for as many images at a time as
# fit a core's cache.
_MAX_WINDOW_BYTES = 2**21


class _Axis(NamedTuple):
    """One axis of a transposed convolution, as an ordinary convolution for each phase.

    Output position stride * q + r sums x[q + offset] * kernel[tap] over those taps for which
    r + tap - pad is a multiple of the stride; the quotient is the offset.
    """

    stride: int
    pad: int  # of `jax.lax.conv_transpose` before the first dilated pixel
    selection: np.ndarray  # [phase, offset from the first, tap], 1 if the phase applies the tap
    pads: tuple[int, int]  # how far the offsets reach beyond the input, before and after
    quotient: int  # outputs of each phase
    size: int  # outputs


def _axis(length: int, kernel_size: int, stride: int, padding: str) -> _Axis:
    pad, size = kernel_size - 1, length * stride
    if padding == "VALID":
        size += max(kernel_size - stride, 0)
    elif stride < kernel_size:
        pad = math.ceil((kernel_size + stride - 2) / 2)
    meetings = [
        (phase, (phase + tap - pad) // stride, tap)
        for phase in range(stride)
        for tap in range(kernel_size)
        if (phase + tap - pad) % stride == 0
    ]
    offsets = [offset for _, offset, _ in meetings]
    first, last = min(offsets), max(offsets)
    selection = np.zeros((stride, last - first + 1, kernel_size))
    for phase, offset, tap in meetings:
        selection[phase, offset - first, tap] = 1
    quotient = -(-size // stride)
    pads = (-first, quotient + last - length)
    return _Axis(stride, pad, selection, pads, quotient, size)


def _axes(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str) -> list[_Axis]:
    sizes = zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)
    return [_axis(*size, padding) for size in sizes]


def _windows(x: jax.Array, shape: Sequence[int], strides: Sequence[int] = (1, 1)) -> jax.Array:
    """Gathers the pixels under a window of this shape, at each of its places, side by side.

    Returns `<float>[batch, places down, places across, shape[0] * shape[1] * channels]`.
    """
    rows, columns = (
        [slice(first, x.shape[1 + axis] - size + first + 1, strides[axis]) for first in range(size)]
        for axis, size in enumerate(shape)
    )
    return jnp.concatenate([x[:, row, column] for row in rows for column in columns], axis=-1)


@jax.custom_vjp
def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies matrices; the derivatives are products too, without a transposed copy."""
    return a @ b


_matmul.defvjp(
    lambda a, b: (_matmul(a, b), (a, b)),
    lambda matrices, cotangent: (cotangent @ matrices[1].T, matrices[0].T @ cotangent),
)


# `vmap` would make one grouped convolution of many, far slower on CPU than one by one.
@jax.custom_batching.sequential_vmap
def _convolve_one_by_one(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


def _convolve_windows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and without padding, by a matrix product."""
    windows = _windows(x, kernel.shape[:2])
    rows = windows.reshape(-1, windows.shape[-1])
    out = _matmul(rows, kernel.reshape(rows.shape[-1], -1))
    return out.reshape(*windows.shape[:-1], -1)


def _interleave(phases: jax.Array, axes: list[_Axis]) -> jax.Array:
    """Interleaves phases, `<float>[batch, rows, columns, ...]` of all phases, to outputs."""
    (batch, rows, columns), (down, across) = phases.shape[:3], axes
    phases = phases.reshape(batch, rows, columns, down.stride, across.stride, -1)
    # For XLA a concatenation is a copy of whole rows, a transposition one of numbers.
    lines = [phases[:, :, :, phase].reshape(batch, rows, 1, -1) for phase in range(down.stride)]
    out = jnp.concatenate(lines, axis=2)
    out = out.reshape(batch, rows * down.stride, columns * across.stride, -1)
    return out[:, : down.size, : across.size]


def _phase_kernel(kernel: jax.Array, axes: list[_Axis]) -> jax.Array:
    """Makes the kernel of the convolution that gives all phases, one after another."""
    if all(axis.stride == 1 for axis in axes):
        return kernel
    selections = [jnp.asarray(axis.selection, kernel.dtype) for axis in axes]
    phase_kernel = jnp.einsum("aik,bjl,klcd->ijcabd", *selections, kernel)
    return phase_kernel.reshape(*phase_kernel.shape[:3], -1)


def _subpixel(x: jax.Array, kernel: jax.Array, axes: list[_Axis], convolve: Callable) -> jax.Array:
    """Computes `jax.lax.conv_transpose` as one convolution, its phases interleaved."""
    phase_kernel = _phase_kernel(kernel, axes)
    padded = jnp.pad(x, [(0, 0), axes[0].pads, axes[1].pads, (0, 0)])
    return _interleave(convolve(padded, phase_kernel), axes)


def _overlap_add(x: jax.Array, kernel: jax.Array, axes: list[_Axis]) -> jax.Array:
    """Computes `jax.lax.conv_transpose` as a matrix product, columns shifted and added.

    The product holds each input pixel's contribution through each tap of the kernel: no windows
    are gathered, but there is one column for each tap and output channel.
    """
    height, width, in_channels, out_channels = kernel.shape
    taps = kernel.transpose(2, 0, 1, 3).reshape(in_channels, -1)
    given = _matmul(x.reshape(-1, in_channels), taps)
    given = given.reshape(*x.shape[:3], height, width, out_channels)
    down, across = axes
    given = jnp.pad(given, [(0, 0), down.pads, across.pads, *[(0, 0)] * 3])
    # A phase that no tap reaches is zero.
    nothing = jnp.zeros((len(x), down.quotient, across.quotient, out_channels), given.dtype)
    phases = [
        sum(
            (
                given[:, i : i + down.quotient, j : j + across.quotient, row, column]
                for i, row in np.argwhere(row_phase)
                for j, column in np.argwhere(column_phase)
            ),
            start=nothing,
        )
        for row_phase in down.selection
        for column_phase in across.selection
    ]
    return _interleave(jnp.stack(phases, axis=3), axes)


def _num_pieces(x: jax.Array, kernel: jax.Array) -> int:
    """Counts the pieces, of equal size, in which the outputs of a batch fit the cache."""
    if export.is_symbolic_dim(x.shape[0]):  # a program for any number of images: one at a time
        return cast(int, x.shape[0])
    num_bytes = math.prod(x.shape[:3]) * kernel.size // kernel.shape[2] * x.dtype.itemsize
    divisors = (n for n in range(1, len(x)) if len(x) % n == 0)
    return next((n for n in divisors if num_bytes <= n * _MAX_WINDOW_BYTES), len(x))


def _fast_on_cpu(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str
) -> jax.Array:
    """Computes `jax.lax.conv_transpose` in the form that is fastest on CPU."""
    in_channels, out_channels = kernel.shape[2:]
    axes = _axes(x, kernel, strides, padding)
    if in_channels <= _MAX_CHANNELS_AS_WINDOWS:
        return _subpixel(x, kernel, axes, _convolve_windows)
    if out_channels > _MAX_CHANNELS_AS_TAPS:
        convolve = _convolve_one_by_one if strides == (1, 1) else _convolve_windows
        return _subpixel(x, kernel, axes, convolve)
    # A few images at a time: XLA cannot mix this loop with what follows, which would slow both.
    pieces = x.reshape(_num_pieces(x, kernel), -1, *x.shape[1:])
    out = jax.lax.map(lambda piece: _overlap_add(piece, kernel, axes), pieces)
    return out.reshape(-1, *out.shape[2:])


def _library(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str) -> jax.Array:
    return jax.lax.conv_transpose(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


def _gradients_on_cpu(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array, strides: tuple[int, int], padding: str
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of `_fast_on_cpu`, each as a matrix product."""
    axes = _axes(x, kernel, strides, padding)
    if x.shape[-1] <= _MAX_CHANNELS_AS_WINDOWS:
        form = functools.partial(_subpixel, axes=axes, convolve=_convolve_windows)
        return jax.vjp(form, x, kernel)[1](cotangent)
    num_pieces = _num_pieces(x, kernel)
    if num_pieces == 1:
        return _gradients_at_once(x, kernel, cotangent, axes)

    def add(total: jax.Array, piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x_gradient, kernel_gradient = _gradients_at_once(piece[0], kernel, piece[1], axes)
        return total + kernel_gradient, x_gradient

    xs, cotangents = (a.reshape(num_pieces, -1, *a.shape[1:]) for a in (x, cotangent))
    kernel_gradient, x_gradient = jax.lax.scan(add, jnp.zeros_like(kernel), (xs, cotangents))
    return x_gradient.reshape(x.shape), kernel_gradient


def _library_gradients(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array, strides: tuple[int, int], padding: str
) -> tuple[jax.Array, jax.Array]:
    form = functools.partial(_library, strides=strides, padding=padding)
    return jax.vjp(form, x, kernel)[1](cotangent)


def _gradients_at_once(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array, axes: list[_Axis]
) -> tuple[jax.Array, jax.Array]:
    """Computes gradients from the outputs that each input pixel reaches."""
    in_channels, out_channels = kernel.shape[2:]
    # The input pixel at i reaches a kernel's length of outputs from i * stride - before on.
    pads = [(0, 0, 0)]
    for axis, length, size in zip(axes, x.shape[1:3], kernel.shape[:2], strict=True):
        before = size - 1 - axis.pad
        pads.append((before, (length - 1) * axis.stride + size - before - axis.size, 0))
    padded = jax.lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [*pads, (0, 0, 0)])
    reached = _windows(padded, kernel.shape[:2], [axis.stride for axis in axes])
    reached = reached.reshape(-1, reached.shape[-1])
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3).reshape(-1, in_channels)
    x_gradient = (reached @ flipped).reshape(x.shape)
    kernel_gradient = x.reshape(-1, in_channels).T @ reached
    kernel_gradient = kernel_gradient.reshape(in_channels, *kernel.shape[:2], out_channels)
    return x_gradient, jnp.flip(kernel_gradient.transpose(1, 2, 0, 3), (0, 1))


def conv_transpose_as_convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str = "SAME"
) -> jax.Array:
    """Computes `conv_transpose` as one convolution without dilated inputs, on any platform."""
    axes = _axes(x, kernel, strides, padding)
    # Padded by the convolution: jax2onnx pads no batches of unknown size.
    out = jax.lax.conv_general_dilated(
        x,
        _phase_kernel(kernel, axes),
        (1, 1),
        [axis.pads for axis in axes],
        dimension_numbers=_LAYOUT,
    )
    return _interleave(out, axes)


def _on_platform(on_cpu: Callable, elsewhere: Callable, *arrays: jax.Array, **static: Any) -> Any:
    """Calls the form that is fast on the platform compiled for."""
    cpu, default = (functools.partial(form, **static) for form in (on_cpu, elsewhere))
    return jax.lax.platform_dependent(*arrays, cpu=cpu, default=default)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_transpose(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str = "SAME"
) -> jax.Array:
    """Computes a two-dimensional transposed convolution, as `jax.lax.conv_transpose` does.

    Reverse-mode derivatives of any order; forward mode (`jax.jvp`) raises JAX's error.

    Args:
      x: `<float>[batch, height, width, in_channels]`.
      kernel: `<float>[kernel_height, kernel_width, in_channels, out_channels]`.
      strides: output pixels for each input pixel, down and across.
      padding: "SAME" (the output is `strides` times the input) or "VALID".

    Returns:
      `<float>[batch, out_height, out_width, out_channels]`.
    """
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding is {padding!r}, must be 'SAME' or 'VALID'")
    return _on_platform(_fast_on_cpu, _library, x, kernel, strides=strides, padding=padding)


def _backward(strides, padding, residuals, cotangent):
    forms = _gradients_on_cpu, _library_gradients
    return _on_platform(*forms, *residuals, cotangent, strides=strides, padding=padding)


conv_transpose.defvjp(
    lambda x, kernel, *static: (conv_transpose(x, kernel, *static), (x, kernel)), _backward
)


@jax.custom_vjp
def _add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias to each channel; on CPU its gradient is a matrix product, not a slow sum."""
    return x + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def _add_bias_backward(_, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    ones = jnp.ones((1, rows.shape[0]), rows.dtype)
    total = jax.lax.platform_dependent(
        rows, cpu=lambda rows: (ones @ rows)[0], default=lambda rows: rows.sum(0)
    )
    return cotangent, total


_add_bias.defvjp(lambda x, bias: (_add_bias(x, bias), None), _add_bias_backward)


class ConvTranspose(nn.ConvTranspose):
    """`flax.linen.ConvTranspose`; in two dimensions fast on CPU too.

    Layers of other dimensions, paddings other than "SAME" and "VALID", masks, dilated and
    transposed kernels run as the library's own.
    """

    @property
    def strides_pair(self) -> tuple[int, int]:
        """The strides, down and across."""
        height, width = np.broadcast_to(self.strides or 1, 2).tolist()
        return height, width

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `<float>[..., height, width, channels]` to `[..., features]` channels."""
        others = self.kernel_dilation, self.transpose_kernel, self.precision
        has_others = any(others) or self.mask is not None or self.preferred_element_type
        if has_others or np.size(self.kernel_size) != 2 or self.padding not in ("SAME", "VALID"):
            return super().__call__(inputs)
        height, width = cast(Sequence[int], self.kernel_size)
        shape = (height, width, inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        images = x.reshape(-1, *x.shape[-3:])
        out = cast(jax.Array, conv_transpose(images, kernel, self.strides_pair, self.padding))
        out = out.reshape(*x.shape[:-3], *out.shape[1:])
        return out if bias is None else _add_bias(out, bias)
