"""Decoding image files, and bringing images to one size and number of channels, by Pillow.

What becomes of each kind of file:

- gray (1 bit, 8 bits, 16 bits scaled to 8, a palette of which only grays are used): gray;
- RGB (of 16 bits, their upper 8), any other palette, CMYK, YCbCr: color;
- transparent: shown on white;
- animated, or of several pages: the first image, which is reported;
- an orientation noted by a camera (EXIF): applied;
- 32-bit integers, floats, Lab and whatever else has no one meaning as 256 levels: refused.
"""

import concurrent.futures
import contextlib
import io
import math
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from vae_jax.datasets.image_folder import ImageFolder
from vae_jax.datasets.levels import check_levels
from vae_jax.runtime.cores import available_cores
from vae_jax.runtime.errors import UserError

# A format not named here is not tried, whatever a file's name: some start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
# Tags of TIFF, and what they must be for a 16-bit value to mean 0 (black) to 65535 (white).
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262


class Decoded(NamedTuple):
    """The images of a folder, in the order of its files."""

    images: np.ndarray  # `<uint8>[n, height, width, channels]`
    left_out: dict[int, str]  # why a file is not among them, by its index
    note: str = ""  # about files of which not everything is read


class ReadImage(NamedTuple):
    """The first image of a file."""

    pixels: np.ndarray  # `<uint8>[height, width]` if gray, `<uint8>[height, width, 3]` if not
    highest: int  # the largest value in the file
    white: int  # the largest value of the file's type
    has_more: bool  # whether the file holds other images too


def decode(
    folder: ImageFolder,
    image_size: Sequence[int],
    channels: int,
    skip_damaged: bool,
    levels: int = 0,
) -> Decoded:
    """Decodes all images of a folder, on all cores, with a progress bar.

    Args:
      folder: the files.
      image_size: height and width to bring them to; () where they have one size already.
      channels: 1 or 3; 0 for 1 where all are gray and else 3.
      skip_damaged: leave out what cannot be decoded.
      levels: values run from 0 to `levels - 1`; 0 for the range of each file's type.

    Raises:
      UserError: an image cannot be decoded, none can, two differ in size, or all are nearly black
        and `levels` is 0.
    """
    paths = [folder.path_of(index) for index in range(len(folder.files))]
    arrays: list[np.ndarray | None] = []
    left_out: dict[int, str] = {}
    first, brightest, several = -1, (0.0, 0, 255), []
    with map_on_cores(lambda path: _try_read(path, image_size, channels, levels), paths) as results:
        for index, result in enumerate(results):
            if isinstance(result, str):
                if not skip_damaged:
                    raise UserError(
                        f"{paths[index]}: {result}; mend or remove the file, or leave out all "
                        "such files with --config.data.skip_damaged=True"
                    )
                left_out[index] = result
                continue
            first = index if first < 0 else first
            arrays.append(result.pixels)
            _check_size(arrays, paths, first, index)
            brightest = max(brightest, (result.highest / result.white, *result[1:3]))
            several += [index] if result.has_more else []
    if not arrays:
        raise UserError(f"{folder.path}: no image can be read; the first: {left_out[0]}")
    if not levels:
        check_levels(np.array(brightest[1]), folder.path, brightest[2])
    note = f"{len(several)} files hold several images, of which the first is read: "
    note = note + repr(folder.files[several[0]]) if several else ""
    return Decoded(_stack(arrays), left_out, note)


@contextlib.contextmanager
def map_on_cores(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Iterable[Any]]:
    """Gives the function's values in order, computed in threads, with a progress bar.

    Threads and not processes: Pillow decodes and resizes without Python's lock.
    """
    Image.init()  # once, before threads would all do it
    executor = concurrent.futures.ThreadPoolExecutor(available_cores())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about whatever is odd and harmless
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            values = executor.map(function, items)
            quiet = not sys.stderr.isatty()
            with tqdm(values, "reading images", len(items), unit=" images", disable=quiet) as bar:
                yield bar
    finally:
        executor.shutdown(cancel_futures=True)


def _check_size(
    arrays: Sequence[np.ndarray | None], paths: Sequence[str], first: int, last: int
) -> None:
    """Raises a UserError unless the last image has the first one's size."""
    expected, found = (_size(arrays[place]) for place in (0, -1))
    if found != expected:
        factor = min(1, 64 / min(expected), 256 / max(expected))  # larger ones take hours
        height, width = (max(1, round(factor * length)) for length in expected)
        memory = 50 * math.prod(expected) * 3 * 4e-9
        reason = f" (as they are, 50 color images take {memory:.0f} GB before any layer)"
        raise UserError(
            f"images differ in size (height x width): {paths[first]} has "
            f"{expected[0]}x{expected[1]} pixels, {paths[last]} {found[0]}x{found[1]}; give the "
            f'size to bring them to, as --config.data.image_size="({height}, {width})"'
            + (reason if memory >= 1 else "")
        )


def _size(array: np.ndarray | None) -> tuple[int, int]:
    assert array is not None
    return array.shape[0], array.shape[1]


def _stack(arrays: list[np.ndarray | None]) -> np.ndarray:
    """Stacks images `[height, width]` and `[height, width, 3]`; empties the list."""
    channels = 3 if any(array is not None and array.ndim == 3 for array in arrays) else 1
    images = np.empty((len(arrays), *_size(arrays[0]), channels), np.uint8)
    for index, array in enumerate(arrays):
        assert array is not None
        images[index] = array if array.ndim == 3 else array[..., np.newaxis]
        arrays[index] = None  # so that never both lie in memory as a whole
    return images


def _try_read(path: str, image_size: Sequence[int], channels: int, levels: int) -> ReadImage | str:
    """Reads an image file; returns in few words why where that fails."""
    try:
        return read(path, image_size, channels, levels)
    except UnidentifiedImageError:  # whose words hold the path again
        return "is empty, or no image of a known format"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"has more than {Image.MAX_IMAGE_PIXELS} pixels, the most that is decoded"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except Exception as error:  # damage shows as almost any exception of Pillow's
        return f"cannot be read ({str(error) or type(error).__name__})"


def read(path: str, image_size: Sequence[int], channels: int, levels: int = 0) -> ReadImage:
    """Reads the first image of an image file; the arguments are those of `decode`.

    Raises:
      Exception: of almost any type, if the file is damaged.
    """
    # All of the file, and not its path: Pillow would map it into memory, which turns some TIFF
    # files wrongly and ends the process if another program cuts the file meanwhile; and it would
    # make room for however many bytes a damaged header promises.
    content = io.BytesIO(pathlib.Path(path).read_bytes())
    with Image.open(content, formats=_FORMATS) as image:
        has_more = bool(getattr(image, "is_animated", False))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        is_deep = image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PPM")
        plain = _check_16_bits(image) if is_deep else _to_gray_or_rgb(image)
        values, white = np.asarray(plain), 65_535 if is_deep else 255
        highest = int(values.max())
        # One bit is black or white, whatever the levels of other files.
        if is_deep or (levels and image.mode != "1"):
            last = levels - 1 if levels else white
            if not highest <= last <= white:
                raise ValueError(f"its values to {highest} of {white} are not data.levels={levels}")
            plain = Image.fromarray(np.rint(values * (255 / last)).astype(np.uint8))
        pixels = np.asarray(fit(plain, image_size, channels))
        return ReadImage(pixels, highest, white, has_more)


def _to_gray_or_rgb(image: Image.Image) -> Image.Image:
    """Converts to mode "L" or "RGB", as the module's docstring says; but 16 bits.

    Raises:
      ValueError: the image's values have no one meaning as 256 levels.
    """
    is_gray = image.mode in ("1", "L", "LA", "La") or (image.mode == "P" and _is_gray(image))
    if not is_gray and image.mode not in ("RGB", "RGBA", "RGBa", "P", "PA", "CMYK", "YCbCr"):
        raise ValueError(f"pixels of Pillow's mode {image.mode}; save it as 8-bit gray or RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("LA" if is_gray else "RGBA")
        white = Image.new(with_alpha.mode, with_alpha.size, "white")
        image = Image.composite(with_alpha, white, with_alpha.getchannel("A"))
    return image.convert("L" if is_gray else "RGB")


def _is_gray(image: Image.Image) -> bool:
    """Tells whether an image uses no color of its palette."""
    palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    used = np.unique(np.asarray(image))
    palette = palette[used[used < len(palette)]]
    return bool((palette == palette[:, :1]).all())


def _check_16_bits(image: Image.Image) -> Image.Image:
    """Returns a gray image of 16 bits as it is.

    Raises:
      ValueError: the values mean something else: fewer bits, white at 0, a transparent level.
    """
    tags = getattr(image, "tag_v2", {_BITS_TAG: (16,), _PHOTOMETRIC_TAG: 1})
    plain = tags.get(_BITS_TAG) == (16,) and tags.get(_PHOTOMETRIC_TAG) == 1
    if not plain or "transparency" in image.info:
        raise ValueError("16-bit gray that is not simply from black to white; save it as 8-bit")
    return image


def fit(image: Image.Image, image_size: Sequence[int], channels: int) -> Image.Image:
    """Brings a gray or RGB image to a size and number of channels.

    The aspect is kept: what is too long is cropped, equally at both ends. Lanczos, antialiased.

    Args:
      image: of mode "L" or "RGB".
      image_size: height and width; () to keep them.
      channels: 1 or 3; 0 to keep them.
    """
    if channels:
        image = image.convert("L" if channels == 1 else "RGB")
    if image_size and (image.height, image.width) != tuple(image_size):
        height, width = image_size
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return image
