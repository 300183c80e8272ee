"""Many small images in one file: sprite sheets, as data URIs."""

import base64
import io

import numpy as np
from PIL import Image

from vae_jax.model.likelihoods import MAX_PIXEL

COLUMNS = 32
# The sides of an image and the bytes it may take, so that a page can promise to stay small.
_MAX_SIDE = 32
_MAX_BYTES_PER_IMAGE = 720
# Of WebP, the first that is small enough is taken; of the last, color noise of that size is.
_ENCODINGS = ({"lossless": True}, {"quality": 95}, {"quality": 80})


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Makes `<uint8>` of intensities `<float>[n, height, width, channels]`.

    Images with more than 32 pixels to a side become as large as that.
    """
    pixels = (images.clip(0.0, 1.0) * MAX_PIXEL).round().astype(np.uint8)
    height, width, channels = images.shape[1:]
    scale = _MAX_SIDE / max(height, width)
    if scale >= 1.0:
        return pixels
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    small = [_picture(each).resize((width, height), Image.Resampling.BOX) for each in pixels]
    return np.stack([np.asarray(each) for each in small]).reshape(-1, height, width, channels)


def pack(images: np.ndarray) -> str:
    """Packs `<uint8>[n, height, width, channels]` into a sheet, 32 across, the first upper left.

    Returns:
      The URI of a WebP file, which keeps every pixel where that does not take much.
    """
    num, height, width, channels = images.shape
    rows = -(-num // COLUMNS)
    padded = np.pad(images, [(0, rows * COLUMNS - num), (0, 0), (0, 0), (0, 0)])
    tiles = padded.reshape(rows, COLUMNS, height, width, channels).swapaxes(1, 2)
    sheet = _picture(tiles.reshape(rows * height, COLUMNS * width, channels))
    content = b""
    for options in _ENCODINGS:
        file = io.BytesIO()
        sheet.save(file, "webp", **options)
        content = file.getvalue()
        if len(content) <= _MAX_BYTES_PER_IMAGE * num:
            break
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
