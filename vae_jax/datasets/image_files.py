"""Decoding image files, and bringing images to one size and number of channels, by Pillow."""

import concurrent.futures
import contextlib
import io
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from vae_jax.datasets.image_folder import ImageFolder
from vae_jax.datasets.levels import check_levels
from vae_jax.datasets.structs import DataOptions
from vae_jax.runtime.cores import available_cores
from vae_jax.runtime.errors import UserError

# Other formats are not tried, whatever a file's name: some start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 262, 0  # of TIFF


class Decoded(NamedTuple):
    """The images of a folder, in the order of its files."""

    images: np.ndarray  # `<uint8>[n, height, width, channels]`
    rows: list[int]  # index of each image's file
    notes: list[str]  # about files that were left out or read in part


class ReadImage(NamedTuple):
    """The first image of a file."""

    pixels: np.ndarray  # `<uint8>[height, width, channels]`
    highest: int  # the largest value in the file
    white: int  # the largest value of the file's type
    has_more: bool  # whether the file holds other images too


def decode(folder: ImageFolder, options: DataOptions) -> Decoded:
    """Decodes all images of a folder, on all cores, with a progress bar.

    Raises:
      UserError: an image cannot be decoded, none can, two differ in size, or all are nearly black
        and `options.levels` is 0.
    """
    arrays: list[np.ndarray] = []
    rows, damaged, several, brightest = [], [], [], (0.0, 0, 255)
    paths = folder.paths
    with map_on_cores(lambda path: _try_read(path, options), paths) as results:
        for index, result in enumerate(results):
            if isinstance(result, str):
                if not options.skip_damaged:
                    raise UserError(
                        f"{paths[index]}: {result}; repair or remove the file, or leave out all "
                        "such files with --config.data.skip_damaged=True"
                    )
                damaged.append(f"{folder.files[index]!r} {result!r}")
                continue
            if arrays and result.pixels.shape[:2] != arrays[0].shape[:2]:
                raise _different_sizes(paths[rows[0]], arrays[0], paths[index], result.pixels)
            arrays.append(result.pixels)
            rows.append(index)
            brightest = max(brightest, (result.highest / result.white, *result[1:3]))
            several += [folder.files[index]] if result.has_more else []
    if not arrays:
        raise UserError(f"{folder.path}: no image can be read; the first: {damaged[0]}")
    if not options.levels:
        check_levels(np.array(brightest[1]), folder.path, brightest[2])
    notes = []
    if damaged:
        notes.append(f"{len(damaged)} of {len(paths)} images are left out, as {damaged[0]}")
    if several:
        notes.append(
            f"{len(several)} files hold several images, as {several[0]!r}; the first is read"
        )
    channels = max(array.shape[2] for array in arrays)
    images = np.empty((len(arrays), *arrays[0].shape[:2], channels), np.uint8)
    for row in reversed(range(len(arrays))):
        images[row] = arrays.pop()  # so that memory never holds all images twice
    return Decoded(images, rows, notes)


@contextlib.contextmanager
def map_on_cores(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Iterable[Any]]:
    """Gives the function's values in order, computed in threads, with a progress bar.

    Threads and not processes: Pillow decodes and resizes without Python's lock.
    """
    Image.init()  # once, before threads would all do it
    executor = concurrent.futures.ThreadPoolExecutor(available_cores())
    try:
        values = executor.map(function, items)
        quiet = not sys.stderr.isatty()
        with tqdm(values, "reading images", len(items), unit=" images", disable=quiet) as bar:
            yield bar
    finally:
        executor.shutdown(cancel_futures=True)


def _different_sizes(first: str, expected: np.ndarray, last: str, other: np.ndarray) -> UserError:
    """Returns the error for two images that differ in size, which advises a size that trains."""
    height, width = expected.shape[:2]
    factor = min(1, 64 / min(height, width), 256 / max(height, width))  # larger ones take hours
    advised = tuple(max(1, round(factor * length)) for length in (height, width))
    gigabytes = 50 * height * width * 3 * 4e-9
    return UserError(
        f"images differ in size (height x width): {first} has {height}x{width} pixels, {last} "
        f"{other.shape[0]}x{other.shape[1]}; give the size to bring them to, as "
        f'--config.data.image_size="{advised}" (as they are, 50 color images take {gigabytes:.2g} '
        "GB before any layer)"
    )


def _try_read(path: str, options: DataOptions) -> ReadImage | str:
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
        has_more = bool(getattr(image, "is_animated", False))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        is_deep = image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PPM")
        if is_deep and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
            raise ValueError("16-bit gray of which 0 is white; save it as 8-bit")
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
        return ReadImage(pixels, highest, white, has_more)


def _to_gray_or_rgb(image: Image.Image) -> Image.Image:
    """Converts to mode "L" or "RGB"; refuses modes without one meaning as 256 levels."""
    is_gray = image.mode in ("1", "L", "LA", "La") or (image.mode == "P" and _is_gray(image))
    if not is_gray and image.mode not in ("RGB", "RGBA", "RGBa", "P", "PA", "CMYK", "YCbCr"):
        raise ValueError(f"pixels of Pillow's mode {image.mode}; save it as 8-bit gray or RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("LA" if is_gray else "RGBA")
        white = Image.new(with_alpha.mode, with_alpha.size, "white")
        image = Image.composite(with_alpha, white, with_alpha.getchannel("A"))
    return image.convert("L" if is_gray else "RGB")


def _is_gray(image: Image.Image) -> bool:
    """Whether an image uses no color of its palette."""
    palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    used = np.unique(np.asarray(image))
    palette = palette[used[used < len(palette)]]
    return bool((palette == palette[:, :1]).all())


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
