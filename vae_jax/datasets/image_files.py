"""Decoding image files, and bringing images to one size and number of channels, by Pillow."""

import collections
import concurrent.futures
import io
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from vae_jax.datasets.structs import DataOptions
from vae_jax.runtime.cores import available_cores

# Other formats are not tried, whatever a file's name: some start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")


class ReadImage(NamedTuple):
    """The first image of a file."""

    pixels: np.ndarray  # `<uint8>[height, width, channels]`
    highest: int  # the largest value in the file
    white: int  # the largest value of the file's type


def map_on_cores(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yields the function's values in order, computed in threads, a few ahead of the consumer.

    Threads and not processes: Pillow decodes and resizes without Python's lock.
    """
    Image.init()  # once, before threads would all do it
    pending: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
    executor = concurrent.futures.ThreadPoolExecutor(available_cores())
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) > 4 * available_cores():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Without waiting: a generator may be collected in any thread, and joining there may block.
        executor.shutdown(wait=False, cancel_futures=True)


def progress_bar(total: int, done: int = 0) -> tqdm:
    """Returns a bar of the images that are read, with their rate and the time left."""
    return tqdm(None, "reading images", total, initial=done, unit=" images", disable=None)


def try_read(path: str, options: DataOptions) -> ReadImage | str:
    """Reads an image file; returns the reason if that fails."""
    try:
        return read(path, options)
    except UnidentifiedImageError:  # its message repeats the path
        return "is empty, or not an image of a known format"
    except Exception as error:  # damage shows as almost any exception of Pillow's
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"cannot be read ({reason})"


def read(path: str, options: DataOptions) -> ReadImage:
    """Reads the first image of an image file; raises almost any exception if it is damaged."""
    # The content and not the path, which Pillow would map into memory: that turns some TIFF files
    # wrongly, and ends the process if another program truncates the file meanwhile.
    content = io.BytesIO(pathlib.Path(path).read_bytes())
    with Image.open(content, formats=_FORMATS) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        is_deep = image.mode.startswith("I;16")
        plain = image if is_deep else _to_gray_or_rgb(image)
        values, white = np.asarray(plain), 65_535 if is_deep else 255
        highest = int(values.max())
        # One bit is black or white, whatever the levels of other files.
        if is_deep or (options.levels and image.mode != "1"):
            last = options.levels - 1 if options.levels else white
            if not highest <= last <= white:
                raise ValueError(
                    f"its values to {highest} of {white} are not data.levels={options.levels}"
                )
            plain = Image.fromarray(np.rint(values * (255 / last)).astype(np.uint8))
        pixels = np.atleast_3d(np.asarray(fit(plain, options)))
        return ReadImage(pixels, highest, white)


def _to_gray_or_rgb(image: Image.Image) -> Image.Image:
    """Converts to mode "L" or "RGB"; refuses modes without one meaning as 256 levels."""
    is_gray = image.mode in ("1", "L", "LA")
    if image.mode == "P":
        is_gray = not np.ptp(np.asarray(image.convert("RGB")), axis=2).any()
    if not is_gray and image.mode not in ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"):
        raise ValueError(f"pixels of Pillow's mode {image.mode}; save it as 8-bit gray or RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("LA" if is_gray else "RGBA")
        white = Image.new(with_alpha.mode, with_alpha.size, "white")
        image = Image.composite(with_alpha, white, with_alpha.getchannel("A"))
    return image.convert("L" if is_gray else "RGB")


def fit(image: Image.Image, options: DataOptions) -> Image.Image:
    """Brings an image of mode "L" or "RGB" to the size and number of channels of the options.

    The aspect is kept: the longer side is cropped, equally at both ends. Lanczos, antialiased.
    """
    if options.channels:
        image = image.convert("L" if options.channels == 1 else "RGB")
    if options.image_size and (image.height, image.width) != options.image_size:
        height, width = options.image_size
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return image
