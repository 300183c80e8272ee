"""Images in `.npz` and `.npy` files.

Nothing is unpickled, and nothing a header promises is believed before it is found in the file.
Floats in [0, 1] are intensities, rounded to 256 levels.
"""

import collections
import contextlib
import errno
import math
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

import numpy as np
from PIL import Image

from vae_jax.datasets import idx, image_files
from vae_jax.datasets.image_folder import printable
from vae_jax.datasets.structs import Split
from vae_jax.runtime.errors import UserError

# The keys of images and labels, by split; "all" is yet to be split.
_LAYOUTS = (
    {"all": ("images", "labels")},
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},  # Keras
    {  # MedMNIST
        "train": ("train_images", "train_labels"),
        "validation": ("val_images", "val_labels"),
        "test": ("test_images", "test_labels"),
    },
)
# What deflate can make of one byte, at most.
_DEFLATE_RATIO = 1032
# Floats are rounded so many images at a time: that takes little memory.
_BLOCK = 1_000
_SHOWN_CHARACTERS = 200


def load(
    path: str, image_size: Sequence[int], channels: int
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the images of an `.npz` or `.npy` file, and their labels if there are any.

    Args:
      path: the file.
      image_size: height and width to bring images to; () to keep them.
      channels: 1 or 3 to bring them to; 0 to keep them.

    Returns:
      The file's own splits ("train" and "test", or all three), or else one, "all"; and the names
      of the classes, which are the different labels, sorted.

    Raises:
      UserError: the file cannot be read, or holds something else than images and labels.
    """
    read = _read_npz if path.lower().endswith(".npz") else _read_npy
    with _read_errors(path):
        images, labels = read(path)
        shapes = {name: array.shape[1:] for name, array in images.items()}
        if len(set(shapes.values())) > 1:
            raise UserError(f"{path}: the splits' images differ in shape: {shapes}")
        indices, class_names = _as_indices(path, images, labels)
    return {
        name: Split(images=_fit(array, image_size, channels), labels=indices.get(name))
        for name, array in images.items()
    }, class_names


@contextlib.contextmanager
def _read_errors(path: str) -> Iterator[None]:
    """Turns what a file that is not as it should be raises into UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damage shows as almost any exception of zipfile's and NumPy's
        # Seeking to before the file, as a damaged archive makes zipfile do, is an OSError too.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{path}: is damaged, or no {path[-4:]} file ({reason[:_SHOWN_CHARACTERS]})"
        ) from error


def _read_npy(path: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    with open(path, "rb") as stream:
        array = _read_array(stream, os.path.getsize(path), path)
    return {"all": _as_uint8(array, path)}, {}


def _read_npz(path: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads the images and the labels of each split."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        layouts = [
            layout for layout in _LAYOUTS if all(key in members for key, _ in layout.values())
        ]
        if len(layouts) != 1:
            known = "; or ".join(
                ", ".join(f"{images} ({labels})" for images, labels in layout.values())
                for layout in _LAYOUTS
            )
            held = ", ".join(members)[:_SHOWN_CHARACTERS] or "nothing"
            raise UserError(
                f"{path}: holds {held}; must hold one of these, labels where there are any: {known}"
            )

        def read(key: str) -> np.ndarray:
            info = members[key]
            _check_size(info, os.path.getsize(path))
            with archive.open(info) as stream:
                return _read_array(stream, info.file_size, f"{path}: {key}")

        [layout] = layouts
        images = {name: _as_uint8(read(key), f"{path}: {key}") for name, (key, _) in layout.items()}
        labels = {name: read(key) for name, (_, key) in layout.items() if key in members}
    return images, labels


def _check_size(info: zipfile.ZipInfo, archive_size: int) -> None:
    """Raises a ValueError unless a member may be as large as the archive says."""
    ratios = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE_RATIO}
    if info.compress_type not in ratios:
        raise ValueError(f"{info.filename} is compressed in a way NumPy does not write")
    compressed = min(info.compress_size, archive_size)
    if info.file_size > compressed * ratios[info.compress_type]:
        raise ValueError(f"{info.filename} cannot hold the {info.file_size} bytes it promises")


def _read_array(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    """Reads an array in NumPy's format.

    Args:
      stream: of the array alone.
      size: how many bytes there are; at least, no more can be.
      where: what to call it.

    Raises:
      UserError: it holds Python objects, or more or fewer bytes than its header promises.
      Exception: of almost any type, if it is damaged.
    """
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # a longer header is for arrays of many named fields
        raise ValueError(f"version {version} of NumPy's format")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise UserError(
            f"{where}: holds Python objects, which are never read: they may run a program; save "
            "an array of numbers"
        )
    promised = math.prod(shape) * dtype.itemsize
    # The bytes that follow the header, or what there can be of them; none are read before.
    held = size - stream.tell()
    if min(shape, default=0) >= 0 and held == promised:
        # One byte beyond the promise: at the end, zipfile compares its checksum.
        data = idx.read_at_most(stream, promised + 1)
        held = len(data)
        if held == promised:
            flat = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
            return flat.reshape(shape, order="F" if is_fortran else "C")
    raise UserError(
        f"{where}: the header promises {promised} bytes (shape {shape}, {dtype}), the file holds "
        f"{held}; make the file anew"
    )


def _as_uint8(array: np.ndarray, where: str) -> np.ndarray:
    """Returns images as `<uint8>[n, height, width, channels]`.

    Raises:
      UserError: they have another shape, are none, or are neither bytes nor floats in [0, 1].
    """
    shape = array.shape
    if array.ndim == 3:
        array = array[..., np.newaxis]
    elif array.ndim != 4 or shape[3] not in (1, 3):
        raise UserError(
            f"{where} has the shape {shape}, must be [n, height, width] or "
            "[n, height, width, 1 or 3]"
        )
    if 0 in shape:
        raise UserError(f"{where} holds no images: its shape is {shape}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind == "f":
        return _round(array, where)
    found = f" from {array.min()} to {array.max()}" if array.dtype.kind in "iu" else ""
    raise UserError(f"{where} is {array.dtype}{found}, must be uint8, or floats from 0 to 1")


def _round(array: np.ndarray, where: str) -> np.ndarray:
    """Rounds floats in [0, 1] to 256 levels; says on standard error where that loses anything.

    Raises:
      UserError: there are others, or what is no number.
    """
    low, high = array.min(), array.max()  # NaN if one of them is
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"{where} is {array.dtype} from {low} to {high}, must be uint8, or floats from 0 to 1"
        )
    images = np.empty(array.shape, np.uint8)
    loss = 0.0
    for start in range(0, len(array), _BLOCK):
        rows = slice(start, start + _BLOCK)
        levels = np.rint(array[rows] * 255.0)
        images[rows] = levels
        loss = max(loss, float(np.abs(array[rows] - levels / 255.0).max()))
    # Half a level is the most; what a level itself loses in this type is none.
    if loss > np.finfo(array.dtype).eps:
        print(f"{where!r}: floats are rounded to 256 levels, by up to {loss:.2g}", file=sys.stderr)
    return images


def _as_indices(
    path: str, images: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns labels as indices of the different ones, `<int32>[n]` a split, and their names.

    Raises:
      UserError: there are labels for some splits or images only, or they are no integers or text.
    """
    if not labels:
        return {}, ()
    for name, array in images.items():
        if name not in labels:
            raise UserError(f"{path}: holds labels of {', '.join(labels)}, but none of {name}")
        shape = labels[name].shape
        if shape not in ((len(array),), (len(array), 1)):
            raise UserError(
                f"{path}: {len(array)} images, but labels of the shape {shape} ({name}); must be "
                "one label an image"
            )
        if labels[name].dtype.kind not in "iubU":
            raise UserError(
                f"{path}: labels of type {labels[name].dtype} ({name}), must be integers or text"
            )
    joined = np.concatenate([labels[name].reshape(-1) for name in images])
    values, indices = np.unique(joined, return_inverse=True)
    ends = np.cumsum([len(array) for array in images.values()])
    pieces = np.split(indices.astype(np.int32), ends[:-1])
    return dict(zip(images, pieces, strict=True)), tuple(map(printable, values))


def _fit(images: np.ndarray, image_size: Sequence[int], channels: int) -> np.ndarray:
    """Brings images to a size and number of channels, where they have others."""
    count, height, width, found = images.shape
    shape = (count, *(image_size or (height, width)), channels or found)
    if shape == images.shape:
        return images
    result = np.empty(shape, np.uint8)

    def fit(index: int) -> None:
        image = Image.fromarray(images[index, ..., 0] if found == 1 else images[index])
        fitted = image_files.fit(image, image_size, channels)
        result[index] = np.asarray(fitted).reshape(shape[1:])

    with image_files.map_on_cores(fit, range(count)) as fitted:
        collections.deque(fitted, maxlen=0)  # that is, do all
    return result
