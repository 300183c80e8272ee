"""Transposed convolution that is fast on CPU too: a drop-in for `flax.linen.ConvTranspose`.

XLA's CPU back end runs the library's transposed convolution, and inside a loop the kernel
gradient of every convolution, many times slower than its arithmetic takes. On CPU this
module therefore computes the sub-pixel form (Shi et al. 2016, arXiv:1609.07009): a
transposed convolution of stride s is s x s ordinary ones, one for each phase of the output
grid, evaluated together and interleaved; or, to few channels, one matrix product whose columns
are shifted and added; and every kernel gradient as a matrix product.
Other platforms use the library's own. `benchmarks/conv_transpose.py` measures the forms.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import export

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# Up to this many input channels gathering their windows for one matrix product beats the
# library's convolution at stride 1, and gathering the outputs' windows for the gradients; at
# other strides it always beats the library's convolution.
_MAX_CHANNELS_AS_WINDOWS = 4
# Up to this many output channels adding what the input's pixels give beats gathering windows.
_MAX_CHANNELS_AS_TAPS = 8
# Gradients gather the outputs' windows, and the overlap-add holds what it adds, for as many images
# at a time as stay in a core's cache.
_MAX_WINDOW_BYTES = 2**21


def _pad_before(kernel_size: int, stride: int, padding: str) -> int:
    """Returns what `jax.lax.conv_transpose` pads before the first dilated pixel."""
    if padding == "SAME" and stride <= kernel_size - 1:
        return math.ceil((kernel_size + stride - 2) / 2)
    return kernel_size - 1


def _output_size(size: int, kernel_size: int, stride: int, padding: str) -> int:
    """Computes the output's length along an axis, as `jax.lax.conv_transpose` has it."""
    return size * stride + (max(kernel_size - stride, 0) if padding == "VALID" else 0)


def _phases(kernel_size: int, stride: int, padding: str) -> tuple[np.ndarray, int]:
    """Finds which kernel taps meet which neighbors, along one axis.

    Output position stride * q + r sums x[q + offset] * kernel[tap] over those taps for which
    r + tap - pad is a multiple of the stride; the quotient is the offset.

    Returns:
      `(selection, first)`: `selection[r, o, tap]` is 1 where phase r applies the tap to the
      neighbor at offset `first + o`, else 0.
    """
    pad = _pad_before(kernel_size, stride, padding)
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


def _windows(x: jax.Array, shape: Sequence[int], strides: tuple[int, int] = (1, 1)) -> jax.Array:
    """Gathers the pixels under a window, at each of its places, side by side.

    Args:
      x: `<float>[batch, height, width, channels]`.
      shape: the window's height and width.
      strides: from one of its places to the next, down and across.

    Returns:
      `<float>[batch, places down, places across, shape[0] * shape[1] * channels]`.
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


def _matmul_backward(residuals, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = residuals
    return cotangent @ b.T, a.T @ cotangent


_matmul.defvjp(lambda a, b: (_matmul(a, b), (a, b)), _matmul_backward)


def _from_windows(in_channels: int, strides: tuple[int, int]) -> bool:
    return strides != (1, 1) or in_channels <= _MAX_CHANNELS_AS_WINDOWS


# `vmap` would make one grouped convolution of many, far slower on CPU than one by one.
@jax.custom_batching.sequential_vmap
def _library_correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


def _correlate(x: jax.Array, kernel: jax.Array, from_windows: bool) -> jax.Array:
    """Convolves, with stride 1 and without padding."""
    if from_windows:
        windows = _windows(x, kernel.shape[:2])
        rows = windows.reshape(-1, windows.shape[-1])
        out = _matmul(rows, kernel.reshape(rows.shape[-1], -1))
        return out.reshape(*windows.shape[:-1], -1)
    return _library_correlate(x, kernel)


@dataclasses.dataclass(frozen=True)
class _Axis:
    """How the outputs of a transposed convolution come about along one axis.

    Attributes:
      selection: which taps meet which neighbors, from `_phases`.
      pads: how far the neighbors reach beyond the input, before and after.
      quotient: outputs of each phase.
      size: of the output.
    """

    selection: np.ndarray
    pads: tuple[int, int]
    quotient: int
    size: int


def _axes(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str) -> list[_Axis]:
    axes = []
    for axis, stride in enumerate(strides):
        selection, first = _phases(kernel.shape[axis], stride, padding)
        size = _output_size(x.shape[1 + axis], kernel.shape[axis], stride, padding)
        quotient = -(-size // stride)
        last = first + selection.shape[1] - 1
        pads = (-first, quotient - 1 + last - (x.shape[1 + axis] - 1))
        axes.append(_Axis(selection, pads, quotient, size))
    return axes


def _interleave(phases: jax.Array, axes: Sequence[_Axis]) -> jax.Array:
    """Interleaves phases, `<float>[batch, rows, columns, phase, phase, channels]`, to outputs."""
    batch, rows, columns, down, across, channels = phases.shape
    # For XLA a concatenation is a copy of whole rows, a transposition one of numbers.
    lines = [phases[:, :, :, phase].reshape(batch, rows, 1, -1) for phase in range(down)]
    out = jnp.concatenate(lines, axis=2).reshape(batch, rows * down, columns * across, channels)
    return out[:, : axes[0].size, : axes[1].size]


def _phase_kernel(kernel: jax.Array, axes: Sequence[_Axis]) -> jax.Array:
    """Makes the kernel of the convolution that gives all phases, one after another."""
    if all(len(axis.selection) == 1 for axis in axes):
        return kernel
    selections = [jnp.asarray(axis.selection, kernel.dtype) for axis in axes]
    phase_kernel = jnp.einsum("aik,bjl,klcd->ijcabd", *selections, kernel)
    return phase_kernel.reshape(*phase_kernel.shape[:3], -1)


def _subpixel(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str) -> jax.Array:
    """Computes `jax.lax.conv_transpose` as one convolution, its phases interleaved."""
    batch, _, _, in_channels = x.shape
    out_channels = kernel.shape[-1]
    axes = _axes(x, kernel, strides, padding)
    phase_kernel = _phase_kernel(kernel, axes)
    x = jnp.pad(x, [(0, 0), axes[0].pads, axes[1].pads, (0, 0)])
    out = _correlate(x, phase_kernel, _from_windows(in_channels, strides))
    quotients = [axis.quotient for axis in axes]
    return _interleave(out.reshape(batch, *quotients, *strides, out_channels), axes)


def _overlap_add(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str
) -> jax.Array:
    """Computes `jax.lax.conv_transpose` as a matrix product, columns shifted and added.

    The product has what each input pixel gives through each tap of the kernel. No windows are
    gathered, but there is one column for each tap and output channel.
    """
    height, width, in_channels, out_channels = kernel.shape
    taps = kernel.transpose(2, 0, 1, 3).reshape(in_channels, -1)
    given = _matmul(x.reshape(-1, in_channels), taps)
    given = given.reshape(*x.shape[:3], height, width, out_channels)
    down, across = _axes(x, kernel, strides, padding)
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
    stacked = jnp.stack(phases, axis=3)  # batch, rows, columns, phase, channels
    stacked = stacked.reshape(*stacked.shape[:3], *strides, out_channels)
    return _interleave(stacked, (down, across))


def _fast_on_cpu(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str
) -> jax.Array:
    """Computes `jax.lax.conv_transpose` in the form that is fastest on CPU."""
    in_channels, out_channels = kernel.shape[2:]
    if in_channels <= _MAX_CHANNELS_AS_WINDOWS or out_channels > _MAX_CHANNELS_AS_TAPS:
        return _subpixel(x, kernel, strides, padding)
    # A few images at a time: XLA cannot mix this loop with what follows, which would slow both.
    pieces = x.reshape(_num_pieces(x, kernel), -1, *x.shape[1:])
    out = jax.lax.map(lambda piece: _overlap_add(piece, kernel, strides, padding), pieces)
    return out.reshape(-1, *out.shape[2:])


def _library(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str) -> jax.Array:
    return jax.lax.conv_transpose(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


def _gradients_of(form, x, kernel, cotangent, **static) -> tuple[jax.Array, jax.Array]:
    """Computes gradients of a form as JAX derives them."""
    return jax.vjp(functools.partial(form, **static), x, kernel)[1](cotangent)


def _subpixel_gradients(
    x: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    strides: tuple[int, int],
    padding: str,
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of `_subpixel`, each as a matrix product."""
    if x.shape[-1] <= _MAX_CHANNELS_AS_WINDOWS:
        return _gradients_of(_subpixel, x, kernel, cotangent, strides=strides, padding=padding)
    num_pieces = _num_pieces(x, kernel)
    if num_pieces == 1:
        return _gradients_at_once(x, kernel, cotangent, strides, padding)

    def add(total: jax.Array, piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x_gradient, kernel_gradient = _gradients_at_once(
            piece[0], kernel, piece[1], strides, padding
        )
        return total + kernel_gradient, x_gradient

    xs, cotangents = (a.reshape(num_pieces, -1, *a.shape[1:]) for a in (x, cotangent))
    kernel_gradient, x_gradient = jax.lax.scan(add, jnp.zeros_like(kernel), (xs, cotangents))
    return x_gradient.reshape(x.shape), kernel_gradient


def _num_pieces(x: jax.Array, kernel: jax.Array) -> int:
    """Counts the pieces, of equal size, in which the outputs of a batch fit the cache."""
    if export.is_symbolic_dim(x.shape[0]):  # a program for any number of images: one at a time
        return cast(int, x.shape[0])
    num_bytes = math.prod(x.shape[:3]) * kernel.size // kernel.shape[2] * x.dtype.itemsize
    divisors = (n for n in range(1, len(x)) if len(x) % n == 0)
    return next((n for n in divisors if num_bytes <= n * _MAX_WINDOW_BYTES), len(x))


def _gradients_at_once(
    x: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    strides: tuple[int, int],
    padding: str,
) -> tuple[jax.Array, jax.Array]:
    """Computes gradients from the outputs that each input pixel reaches."""
    in_channels, out_channels = kernel.shape[2:]
    # The input pixel at i reaches the outputs from i * stride - before on, as many as the kernel
    # is long. A negative pad takes away outputs that none reaches.
    pads = [(0, 0, 0)]
    for axis, stride in enumerate(strides):
        size = kernel.shape[axis]
        before = size - 1 - _pad_before(size, stride, padding)
        end = (x.shape[1 + axis] - 1) * stride + size - before
        pads.append((before, end - cotangent.shape[1 + axis], 0))
    padded = jax.lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [*pads, (0, 0, 0)])
    reached = _windows(padded, kernel.shape[:2], strides)
    reached = reached.reshape(-1, reached.shape[-1])
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3).reshape(-1, in_channels)
    x_gradient = (reached @ flipped).reshape(x.shape)
    kernel_gradient = x.reshape(-1, in_channels).T @ reached
    kernel_gradient = kernel_gradient.reshape(in_channels, *kernel.shape[:2], out_channels)
    return x_gradient, jnp.flip(kernel_gradient.transpose(1, 2, 0, 3), (0, 1))


def conv_transpose_as_convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str = "SAME"
) -> jax.Array:
    """Computes `conv_transpose` as one ordinary convolution, its phases interleaved.

    For programs whose convolutions dilate no inputs. The same on every platform, the derivatives
    JAX's own.
    """
    axes = _axes(x, kernel, strides, padding)
    out = jax.lax.conv_general_dilated(
        x,
        _phase_kernel(kernel, axes),
        (1, 1),
        [axis.pads for axis in axes],
        dimension_numbers=_LAYOUT,
    )
    quotients = [axis.quotient for axis in axes]
    return _interleave(out.reshape(x.shape[0], *quotients, *strides, kernel.shape[-1]), axes)


def _on_platform(on_cpu, elsewhere, *arguments, **static):
    """Calls the form that is fast on the platform compiled for."""
    return jax.lax.platform_dependent(
        *arguments,
        cpu=functools.partial(on_cpu, **static),
        default=functools.partial(elsewhere, **static),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_transpose(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str = "SAME"
) -> jax.Array:
    """Computes a two-dimensional transposed convolution, as `jax.lax.conv_transpose` does.

    Reverse-mode derivatives of any order; forward mode (`jax.jvp`) is an error of JAX's.

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
    return _on_platform(_fast_on_cpu, _library, x, kernel, strides=strides, padding=padding)


def _forward(x, kernel, strides, padding):
    return conv_transpose(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, residuals, cotangent):
    return _on_platform(
        _subpixel_gradients,
        functools.partial(_gradients_of, _library),
        *residuals,
        cotangent,
        strides=strides,
        padding=padding,
    )


conv_transpose.defvjp(_forward, _backward)


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


class ConvTranspose(nn.Module):
    """Drop-in for the two-dimensional `flax.linen.ConvTranspose`.

    The same parameters, initialization and outputs. Dilated and masked kernels, transposed
    kernels, circular and explicit padding are not offered: the library has them.

    Attributes:
      features: number of output channels.
      kernel_size: height and width of the kernel.
      strides: height and width of what an input pixel becomes, one number for both, or None
        for 1.
      padding: "SAME" or "VALID".
      use_bias: whether a bias is added to each output channel.
      dtype: of the computation; by default what inputs and parameters promote to.
      param_dtype: of the parameters.
      kernel_init: initializer of the kernel.
      bias_init: initializer of the bias.
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: str = "SAME"
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @property
    def strides_pair(self) -> tuple[int, int]:
        """The strides, down and across."""
        if self.strides is None:
            return (1, 1)
        if isinstance(self.strides, int):
            return (self.strides, self.strides)
        height, width = self.strides
        return (height, width)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `<float>[..., height, width, channels]` to `[..., features]` channels.

        Any number of batch axes may come first, none included.

        Raises:
          ValueError: the kernel is not two-dimensional, or the padding is another.
        """
        if len(self.kernel_size) != 2:
            raise ValueError(f"kernel_size is {self.kernel_size}, must be a height and a width")
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        batch_shape = x.shape[:-3]
        images = x.reshape(-1, *x.shape[-3:])
        out = cast(jax.Array, conv_transpose(images, kernel, self.strides_pair, self.padding))
        out = out.reshape(*batch_shape, *out.shape[1:])
        return out if bias is None else _add_bias(out, bias)
