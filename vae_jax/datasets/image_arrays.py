"""Images in `.npz` and `.npy` files, read a block at a time and without unpickling anything."""

import contextlib
import functools
import math
import os
import sys
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from vae_jax.datasets import cache, image_cache, image_files
from vae_jax.datasets.image_folder import SPLITS
from vae_jax.datasets.images import check_levels
from vae_jax.datasets.stored_images import StoredImages
from vae_jax.datasets.structs import DataOptions, Split
from vae_jax.runtime.errors import UserError

# The split of each key, in the forms of this package, Keras and MedMNIST. Of two keys with one
# meaning the later is read.
_IMAGES = {
    "images": "all",
    **{f"x_{name}": split for name, split in SPLITS.items()},
    **{f"{name}_images": split for name, split in SPLITS.items()},
}
_LABELS = {
    **dict.fromkeys(("y", "label", "labels"), "all"),
    **{f"y_{name}": split for name, split in SPLITS.items()},
    **{f"{name}_labels": split for name, split in SPLITS.items()},
}
_SMALL = 1 << 20  # images of fewer bytes are read into memory
_BLOCK_BYTES = 1 << 20


class ArrayFile(NamedTuple):
    """An array of numbers in a file."""

    path: str
    member: str  # of the archive at `path`; "" if the file itself holds the array
    offset: int  # of the first number, in bytes
    shape: tuple[int, ...]
    dtype: np.dtype

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields the rows in order, in arrays of about 1 MiB.

        Raises:
          UserError: the file cannot be read or is damaged.
        """
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        size = max(1, _BLOCK_BYTES // row_bytes)
        with _damage_as_user_error(self.path), contextlib.ExitStack() as stack:
            if self.member:
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                file = stack.enter_context(archive.open(self.member))
            else:
                file = stack.enter_context(open(self.path, "rb"))
            file.seek(self.offset)
            for start in range(0, self.shape[0], size):
                count = min(size, self.shape[0] - start)
                content = file.read(count * row_bytes)
                yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])


def load(path: str, options: DataOptions) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the images of an `.npz` or `.npy` file, and their labels if present.

    Images of 1 MiB or more stay in the file if they need no conversion, else they are converted to
    a file below `options.data_dir`.

    Returns the file's own splits ("train" and one or both others), or else one, "all"; and the
    names of the classes, which are the different labels, sorted.
    """
    arrays, labels = _open(path)
    shapes = {split: array.shape[1:] for split, array in arrays.items()}
    if len({*shapes.values()}) > 1:
        raise UserError(f"{path}: the splits' images differ in shape: {shapes}")
    lengths = {split: array.shape[0] for split, array in arrays.items()}
    indices, class_names = _as_indices(path, lengths, labels)
    height, width, channels = shapes.popitem()[1]
    height, width = options.image_size or (height, width)
    shape = height, width, options.channels or channels
    if sum(lengths.values()) * math.prod(shape) < _SMALL:
        blocks = _converted(path, [*arrays.values()], options)
        images = np.concatenate([pixels for pixels, _ in blocks])
    else:
        images = _stored(path, [*arrays.values()], shape, options)
    everything, splits, start = Split(images, indices), {}, 0
    for split, length in lengths.items():
        splits[split] = everything[start : start + length]
        start += length
    return splits, class_names


def _open(path: str) -> tuple[dict[str, ArrayFile], dict[str, np.ndarray]]:
    """Opens the arrays of images, and reads those of labels, by split."""
    with _damage_as_user_error(path):
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                return {"all": _read_header(file, path, "", os.path.getsize(path))}, {}
        images, labels = {}, {}
        with zipfile.ZipFile(path) as archive:
            image_keys, label_keys = _find_keys(path, archive.namelist())
            for split, key in image_keys.items():
                with archive.open(key) as file:
                    num_bytes = archive.getinfo(key).file_size
                    images[split] = _read_header(file, path, key, num_bytes)
            for split, key in label_keys.items():
                with archive.open(key) as file:
                    labels[split] = np.lib.format.read_array(file, allow_pickle=False)
        return images, labels


def _find_keys(path: str, members: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the members with images and with labels, by split; reports all others."""
    found = {member.removesuffix(".npy"): member for member in members}
    images = {split: found[key] for key, split in _IMAGES.items() if key in found}
    if "all" in images:
        images = {"all": images["all"]}
    elif not {*images} > {"train"}:
        raise UserError(
            f"{path}: holds {', '.join(found)[:200] or 'nothing'}; must hold one of these, labels "
            "if present: images (labels, label or y); x_train with x_val or x_test (y_train, ...); "
            "train_images with val_images or test_images (train_labels, ...)"
        )
    labels = {
        split: found[key] for key, split in _LABELS.items() if key in found and split in images
    }
    read = {*images.values(), *labels.values()}
    if unread := sorted(key for key, member in found.items() if member not in read):
        print(f"{path!r}: not read: {', '.join(map(repr, unread))}", file=sys.stderr)
    return images, labels


def _read_header(file: IO[bytes], path: str, member: str, num_bytes: int) -> ArrayFile:
    """Reads the header of an array of images, to whose shape an axis of channels is added."""
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    array = ArrayFile(path, member, file.tell(), shape, dtype)
    if dtype.kind not in "biuf":
        raise UserError(f"{path} is {dtype}, must be numbers")
    if is_fortran:
        raise UserError(f"{path} is in Fortran order; save it by np.ascontiguousarray")
    # Three axes that end in 1 or 3 may be one image.
    has_channels = len(shape) == 4 and shape[3] in (1, 3)
    if not has_channels and not (len(shape) == 3 and shape[2] not in (1, 3)):
        raise UserError(
            f"{path} has the shape {shape}, must be [n, height, width] or "
            "[n, height, width, 1 or 3]"
        )
    if min(shape) < 1:
        raise UserError(f"{path} holds no images: its shape is {shape}")
    if array.offset + math.prod(shape) * dtype.itemsize > num_bytes:
        raise ValueError(f"it is too short for an array of the shape {shape}")
    return array if has_channels else array._replace(shape=(*shape, 1))


@contextlib.contextmanager
def _damage_as_user_error(path: str) -> Iterator[None]:
    """Turns any error of reading a file into UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damage shows as almost any exception of zipfile's and NumPy's
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"{path}: cannot be read, is damaged, or holds no array of numbers ({reason})"
        ) from error


def _stored(
    path: str,
    arrays: list[ArrayFile],
    image_shape: tuple[int, int, int],
    options: DataOptions,
) -> StoredImages:
    """Returns images in their own file, or converted to a file in the cache, with checksums.

    The first time, all of them are read or converted; the checksums are cached too.
    """
    source = arrays[0]
    is_unchanged = source.dtype == np.uint8 and options.levels in (0, 256)
    stays = is_unchanged and not source.member and source.shape[1:] == image_shape

    def make(made: Path) -> None:
        checksums = []
        with open(made / "pixels.bin", "wb") as file:
            for pixels, block_checksums in _converted(path, arrays, options):
                checksums.append(block_checksums)
                if not stays:
                    file.write(pixels.data)
        np.save(made / "checksums.npy", np.concatenate(checksums))

    path = os.path.realpath(path)
    key = cache.digest(cache.fingerprint(path))
    made = cache.make_once(image_cache.images_folder(path, options), key, make)
    checksums = np.load(made / "checksums.npy")
    return StoredImages(
        path=path if stays else str(made / "pixels.bin"),
        image_shape=image_shape,
        offsets=np.arange(len(checksums)) * math.prod(image_shape) + stays * source.offset,
        checksums=checksums,
        is_gray=np.full(len(checksums), image_shape[2] == 1),
        advice="start again, with another --workdir if this run has a checkpoint"
        if stays
        else f"delete the folder {str(made)!r}, it is made again",
    )


def _converted(
    path: str, arrays: list[ArrayFile], options: DataOptions
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields blocks of images as `<uint8>`, 255 for white, of the size of the options.

    The second of each pair is the CRC-32 of each image, `<uint32>[rows]`.

    Raises:
      UserError: see `load`; after the last block if all images are nearly black.
    """
    brightest = (0.0, 0.0, 255)
    with image_files.progress_bar(sum(array.shape[0] for array in arrays)) as bar:
        for array in arrays:
            # Integers are as bytes.
            white = options.levels - 1 if options.levels else 1 if array.dtype.kind in "bf" else 255
            convert = functools.partial(_convert, path, white, options)
            blocks = image_files.map_on_cores(convert, array.blocks())
            for pixels, checksums, highest in blocks:
                brightest = max(brightest, (highest / white, highest, white))
                yield pixels, checksums
                bar.update(len(pixels))
    if not options.levels:
        check_levels(*brightest[1:], path)


def _convert(
    path: str, white: int, options: DataOptions, block: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Converts a block of images to `<uint8>`; returns their CRC-32 and its highest value too."""
    low, high = block.min(), block.max()  # NaN if one of them is
    if not (low >= 0 and high <= white):
        raise UserError(
            f"{path} has {block.dtype} values from {low} to {high}, must be from 0 to {white}; for "
            "integers --config.data.levels can state another range"
        )
    is_unchanged = block.dtype == np.uint8 and white == 255
    pixels = block if is_unchanged else np.rint(block * (255.0 / white)).astype(np.uint8)
    shape = pixels.shape[1:]
    if shape != (*(options.image_size or shape[:2]), options.channels or shape[2]):
        gray = pixels[..., 0] if shape[2] == 1 else pixels
        fitted = (image_files.fit(Image.fromarray(image), options) for image in gray)
        pixels = np.stack([np.atleast_3d(np.asarray(image)) for image in fitted])
    return pixels, np.fromiter(map(zlib.crc32, pixels), np.uint32), high.item()


def _as_indices(
    path: str, lengths: dict[str, int], labels: dict[str, np.ndarray]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Returns labels as indices of the different ones, `<int32>[n]`, and their names.

    Labels that are not classes are left out, which is reported.
    """
    if not labels:
        return None, ()
    columns = [np.ravel(labels.get(split, ())) for split in lengths]
    counts = [len(column) for column in columns]
    if counts != [*lengths.values()] or any(column.dtype.kind not in "biuU" for column in columns):
        print(
            f"{path!r}: labels are left out, because they are not an integer or a text for each "
            "image",
            file=sys.stderr,
        )
        return None, ()
    values, indices = np.unique(np.concatenate(columns), return_inverse=True)
    return indices.astype(np.int32), tuple(map(str, values))
