"""Decoding image files, and bringing images to one size and number of channels, by Pillow."""

import collections
import concurrent.futures
import contextlib
import io
import pathlib
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from vae_jax.datasets.image_folder import ImageFolder
from vae_jax.datasets.levels import check_levels
from vae_jax.datasets.stored_images import Images
from vae_jax.datasets.structs import DataOptions
from vae_jax.runtime.cores import available_cores
from vae_jax.runtime.errors import UserError

# Other formats are not tried, whatever a file's name: some start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 262, 0  # of TIFF


class Decoded(NamedTuple):
    """The images of a folder, in the order of its files."""

    images: Images  # `<uint8>[n, height, width, channels]`
    rows: list[int]  # index of each image's file
    notes: list[str]  # about files that were left out or read in part


class FileRecord(NamedTuple):
    """Properties of an image file that are checked for the whole data set."""

    shape: tuple[int, int, int]  # height, width and channels of the decoded image
    highest: int = 0  # the largest value in the file
    white: int = 255  # the largest value of the file's type
    has_more: bool = False  # whether the file holds other images too
    error: str = ""  # why the file cannot be read


class ReadImage(NamedTuple):
    """The first image of a file."""

    pixels: np.ndarray  # `<uint8>[height, width, channels]`
    record: FileRecord


def decode(folder: ImageFolder, options: DataOptions) -> Decoded:
    """Decodes all images of a folder into memory, on all cores, with a progress bar.

    Raises:
      UserError: an image cannot be decoded, none can, two differ in size, or all are nearly black
        and `options.levels` is 0.
    """
    unknown = [None] * len(folder.files)
    decoded = [image for _, image in decode_missing(folder, options, unknown)]
    rows, notes = check_records(folder, options, [image.record for image in decoded])
    arrays = [decoded[row].pixels for row in rows]
    decoded.clear()
    channels = max(array.shape[2] for array in arrays)
    images = np.empty((len(arrays), *arrays[0].shape[:2], channels), np.uint8)
    for row in reversed(range(len(arrays))):
        images[row] = arrays.pop()  # so that memory never holds all images twice
    return Decoded(images, rows, notes)


def decode_missing(
    folder: ImageFolder, options: DataOptions, records: Sequence[FileRecord | None]
) -> Generator[tuple[int, ReadImage], None, None]:
    """Decodes the files whose record is None; yields each one's index and image, in order.

    Raises:
      UserError: a file cannot be read, or differs in size from those before it.
    """
    paths = folder.paths
    missing = [index for index, record in enumerate(records) if record is None]
    known = ((path, each) for path, each in zip(paths, records, strict=True) if each)
    first = next(((path, each.shape) for path, each in known if not each.error), None)
    images = map_on_cores(lambda index: _try_read(paths[index], options), missing)
    bar = progress_bar(len(paths), len(paths) - len(missing))
    with contextlib.closing(images), bar:
        for index, image in zip(missing, images, strict=True):
            first = _check_record(paths[index], image.record, options, first)
            yield index, image
            bar.update()


def check_records(
    folder: ImageFolder, options: DataOptions, records: Sequence[FileRecord]
) -> tuple[list[int], list[str]]:
    """Checks the files of a folder; returns the indices of usable ones, and notes on others.

    Raises:
      UserError: see `decode`.
    """
    first, rows, damaged, several, brightest = None, [], [], [], (0.0, 0, 255)
    files = zip(folder.paths, folder.files, records, strict=True)
    for index, (path, name, record) in enumerate(files):
        first = _check_record(path, record, options, first)
        if record.error:
            damaged.append(f"{name!r} {record.error!r}")
            continue
        rows.append(index)
        brightest = max(brightest, (record.highest / record.white, record.highest, record.white))
        several += [name] if record.has_more else []
    if not rows:
        raise UserError(f"{folder.path}: no image can be read; the first: {damaged[0]}")
    if not options.levels:
        check_levels(np.array(brightest[1]), folder.path, brightest[2])
    notes = []
    if damaged:
        notes.append(f"{len(damaged)} of {len(records)} images are left out, as {damaged[0]}")
    if several:
        notes.append(
            f"{len(several)} files hold several images, as {several[0]!r}; the first is read"
        )
    return rows, notes


_Shaped = tuple[str, tuple[int, int, int]]  # the path and shape of an image


def _check_record(
    path: str, record: FileRecord, options: DataOptions, first: _Shaped | None
) -> _Shaped | None:
    """Checks that a file can be used beside the first usable one; returns the first."""
    if record.error and not options.skip_damaged:
        raise UserError(
            f"{path}: {record.error}; repair or remove the file, or leave out all such files with "
            "--config.data.skip_damaged=True"
        )
    if first and not record.error and record.shape[:2] != first[1][:2]:
        raise _different_sizes(*first, path, record.shape)
    return first if first or record.error else (path, record.shape)


def map_on_cores(
    function: Callable[[Any], Any], items: Iterable[Any]
) -> Generator[Any, None, None]:
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
        executor.shutdown(cancel_futures=True)


def progress_bar(total: int, done: int = 0) -> tqdm:
    """Returns a bar of the images that are read, with their rate and the time left."""
    quiet = not sys.stderr.isatty()
    return tqdm(None, "reading images", total, initial=done, unit=" images", disable=quiet)


def _different_sizes(
    first: str, expected: tuple[int, ...], last: str, other: tuple[int, ...]
) -> UserError:
    """Returns the error for two images that differ in size, which advises a size that trains."""
    height, width = expected[:2]
    factor = min(1, 64 / min(height, width), 256 / max(height, width))  # larger ones take hours
    advised = tuple(max(1, round(factor * length)) for length in (height, width))
    gigabytes = 50 * height * width * 3 * 4e-9
    return UserError(
        f"images differ in size (height x width): {first} has {height}x{width} pixels, {last} "
        f"{other[0]}x{other[1]}; give the size to bring them to, as "
        f'--config.data.image_size="{advised}" (as they are, 50 color images take {gigabytes:.2g} '
        "GB before any layer)"
    )


def _try_read(path: str, options: DataOptions) -> ReadImage:
    """Reads an image file; if that fails, the record holds the reason."""
    try:
        return read(path, options)
    except UnidentifiedImageError:  # its message repeats the path
        reason = "is empty, or not an image of a known format"
    except Exception as error:  # damage shows as almost any exception of Pillow's
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = f"cannot be read ({reason})"
    return ReadImage(np.empty((0, 0, 0), np.uint8), FileRecord((0, 0, 0), error=reason))


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
        height, width, channels = pixels.shape
        return ReadImage(pixels, FileRecord((height, width, channels), highest, white, has_more))


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
