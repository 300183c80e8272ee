"""Refusal of images whose values probably have another range than their type."""

import numpy as np

from vae_jax.runtime.errors import UserError

MAX_LEVELS = 65_536
# The largest fraction of white that is nearly black: covers 4 bits and scikit-learn's digits (0 to
# 16) in bytes and floats, and 10, 12 and 14 bits in 16.
_NEARLY_BLACK, _NEARLY_BLACK_16_BITS = 16 / 255, 1 / 4


def check_levels(images: np.ndarray, where: str, white: int = 0, in_file: bool = True) -> None:
    """Refuses images that are all nearly black: their values probably have another range.

    Args:
      images: `<uint8, uint16 or float>[...]`.
      where: names the images in the error.
      white: the value that means white; 0 for 255 of `uint8`, else 1.
      in_file: whether `data.levels` can be set; otherwise the error names the array to pass.
    """
    highest, white = images.max().item(), white or (255 if images.dtype == np.uint8 else 1)
    if not is_nearly_black(highest, white):
        return
    keep = f"set --config.data.levels={white + 1}" if in_file else f"pass images / {white}"
    if highest == 0:
        raise UserError(f"{where}: every value is 0 (black); give other images, or {keep}")
    scaling = f"set --config.data.levels={highest + 1}" if white > 1 else "divide by it"
    if white > 255:
        scaling += f" ({1 << highest.bit_length()} for {highest.bit_length()} bits)"
    scaling = scaling if in_file else f"pass images / {highest:.5g}"
    raise UserError(
        f"{where}: no value exceeds {highest:.5g} and {white} is white, so all images are nearly "
        f"black; if {highest:.5g} is white, {scaling}; if they are this dark, {keep}"
    )


def is_nearly_black(highest: float, white: int) -> bool:
    """Whether the highest value of all images is improbably low; NaN is refused elsewhere."""
    return highest / white <= (_NEARLY_BLACK_16_BITS if white > 255 else _NEARLY_BLACK)
