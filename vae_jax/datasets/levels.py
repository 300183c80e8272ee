"""Which value of an image file or array is white, and whether images come anywhere near it."""

import numpy as np

from vae_jax.runtime.errors import UserError

MAX_LEVELS = 65_536
# Covers 4 bits, scikit-learn's digits (0 to 16), and 12 bits stored as 16.
_NEARLY_BLACK = 16 / 255


def check_levels(images: np.ndarray, where: str, white: int = 0, in_file: bool = True) -> None:
    """Refuses images that are all nearly black: their values probably have another range.

    Args:
      images: `<uint8 or float>[...]`.
      where: what to call them in the error.
      white: the value that means white; 0 for 255 of `uint8`, else 1.
      in_file: whether `data.levels` can be set. If not, the error says what array to pass.

    Raises:
      UserError: no value exceeds 16 / 255 of white; names both readings.
    """
    highest, white = images.max().item(), white or (255 if images.dtype == np.uint8 else 1)
    if not highest / white <= _NEARLY_BLACK:  # NaN is refused elsewhere
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
