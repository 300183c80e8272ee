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
from typing import IO, Any

import numpy as np
from PIL import Image

from vae_jax.datasets import idx, image_files
from vae_jax.datasets.image_folder import SPLITS, as_text
from vae_jax.datasets.levels import check_levels
from vae_jax.datasets.structs import Split
from vae_jax.runtime.errors import UserError

# The split of each key, and whether it holds labels. Of two with one meaning the later is read.
_LAYOUTS = (
    {"images": ("all", False), **dict.fromkeys(("y", "label", "labels"), ("all", True))},
    {f"{kind}_{name}": (SPLITS[name], kind == "y") for name in SPLITS for kind in "xy"},  # Keras
    {  # MedMNIST
        f"{name}_{kind}": (SPLITS[name], kind == "labels")
        for name in SPLITS
        for kind in ("images", "labels")
    },
)
# What deflate can make of one byte, at most.
_DEFLATE_RATIO = 1032
# Floats are rounded so many images at a time: that takes little memory.
_BLOCK = 1_000
_SHOWN_CHARACTERS = 200
_ALLOWED = "uint8, or floats from 0 to 1, or integers from 0 to data.levels - 1"


def load(
    path: str, image_size: Sequence[int], channels: int, levels: int = 0
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the images of an `.npz` or `.npy` file, and their labels if there are any.

    Args:
      path: the file.
      image_size: height and width to bring images to; () to keep them.
      channels: 1 or 3 to bring them to; 0 to keep them.
      levels: values run from 0 to `levels - 1`; 0 for 255, or 1 for floats.

    Returns:
      The file's own splits ("train" and one or both others), or else one, "all"; and the names of
      the classes, which are the different labels, sorted.

    Raises:
      UserError: the file cannot be read, holds no images, or only ones that are nearly black while
        `levels` is 0.
    """
    with _read_errors(path):
        if path.lower().endswith(".npz"):
            images, labels = _read_npz(path, image_size, channels, levels)
        else:
            with open(path, "rb") as stream:
                array = _read_array(stream, os.path.getsize(path), path)
            images, labels = {"all": _as_uint8(array, path, image_size, channels, levels)}, {}
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


def _read_npz(
    path: str, image_size: Sequence[int], channels: int, levels: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads the images and the labels of each split; the arguments are those of `load`."""
    images, labels = {}, {}
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for key, split, is_labels in _find_keys(path, members):
            where = f"{path}: {key}"
            _check_size(members[key], os.path.getsize(path))
            with archive.open(members[key]) as stream:
                try:
                    array = _read_array(stream, members[key].file_size, where)
                except UserError as error:
                    if not is_labels:
                        raise
                    print(f"{error}; the images have no labels", file=sys.stderr)
                    continue
            if is_labels:
                labels[split] = array
            else:
                images[split] = _as_uint8(array, where, image_size, channels, levels)
    return images, labels


def _find_keys(path: str, members: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Lists each key to read, its split and whether it holds labels; reports all other keys.

    Raises:
      UserError: the keys are of no layout (training images alone are not one), or of several.
    """
    found = []
    for layout in _LAYOUTS:
        keys = {role: key for key, role in layout.items() if key in members}
        splits = {split for split, is_labels in keys if not is_labels}
        if splits == {"all"} or splits > {"train"}:
            found.append([(key, *role) for role, key in keys.items() if role[0] in splits])
    if len(found) != 1:
        held = ", ".join(members)[:_SHOWN_CHARACTERS] or "nothing"
        raise UserError(
            f"{path}: holds {held}; must hold one of these, labels where there are any: images "
            "(labels, label or y); x_train with x_val or x_test (y_train, ...); train_images with "
            "val_images or test_images (train_labels, ...)"
        )
    if unread := {*members} - {key for key, *_ in found[0]}:
        print(f"{path!r}: not read: {', '.join(map(repr, sorted(unread)))}", file=sys.stderr)
    return found[0]


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


def _as_uint8(
    array: np.ndarray, where: str, image_size: Sequence[int], channels: int, levels: int
) -> np.ndarray:
    """Returns images as `<uint8>[n, height, width, channels]`, 255 for white.

    Raises:
      UserError: they have another shape, there are none, their values are neither bytes, bools nor
        floats in [0, 1], nor from 0 to `levels - 1`, or all are nearly black and `levels` is 0.
    """
    images, kind = _with_four_axes(array, where, tuple(image_size), channels), array.dtype.kind
    if levels == 0 and (kind in "bf" or array.dtype == np.uint8):
        check_levels(array, where)
    if kind == "b":
        return images * np.uint8(255)
    if array.dtype == np.uint8 and levels in (0, 256):
        return np.ascontiguousarray(images)
    if kind == "f" or (levels and kind in "iu"):
        return _round(images, where, max(levels, 2) - 1)
    found = f" from {array.min()} to {array.max()}" if kind in "iu" else ""
    raise UserError(f"{where} is {array.dtype}{found}, must be {_ALLOWED}")


def _with_four_axes(
    array: np.ndarray, where: str, size: tuple[int, ...], channels: int
) -> np.ndarray:
    """Returns images as `[n, height, width, channels]`.

    If three axes end in 1 or 3, the shape that images are brought to tells one image from many.
    """
    shape, is_one = array.shape, array.shape == size  # then a gray image
    if array.ndim == 3 and shape[2] in (1, 3):
        is_one = shape[:2] == size or channels == shape[2] == 3
        if is_one == (channels != 3 and shape[1:] == size):
            raise UserError(
                f"{where} has the shape {shape}, which may be one image of {shape[2]} channels or "
                f"{shape[0]} gray images; save it with the shape {(1, *shape)} or {(*shape, 1)}"
            )
    array = array[np.newaxis] if is_one else array
    array = array[..., np.newaxis] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        raise UserError(
            f"{where} has the shape {shape}, must be [n, height, width] or "
            "[n, height, width, 1 or 3]"
        )
    if 0 in shape:
        raise UserError(f"{where} holds no images: its shape is {shape}")
    return array


def _round(array: np.ndarray, where: str, white: int) -> np.ndarray:
    """Rounds numbers in [0, white] to 256 levels; reports where that loses anything.

    Raises:
      UserError: a number lies outside, or is NaN.
    """
    low, high = array.min(), array.max()  # NaN if one of them is
    if not (low >= 0 and high <= white):
        allowed = f"from 0 to {white}, by data.levels" if white > 1 else _ALLOWED
        raise UserError(f"{where} is {array.dtype} from {low} to {high}, must be {allowed}")
    images = np.empty(array.shape, np.uint8)
    factor, loss = 255.0 / white, 0.0
    for start in range(0, len(array), _BLOCK):
        rows = slice(start, start + _BLOCK)
        levels = np.rint(array[rows] * factor)
        images[rows] = levels
        loss = max(loss, float(np.abs(array[rows] - levels / factor).max()) / white)
    # Half a level is the most; what a level itself loses in this type is none.
    is_float = array.dtype.kind == "f"
    if loss > np.finfo(array.dtype if is_float else float).eps:
        kind = "floats" if is_float else "integers"
        line = f"{kind} are rounded to 256 levels, by up to {loss:.2g}"
        print(f"{where!r}: {line}", file=sys.stderr)
    return images


def _as_indices(
    path: str, images: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns labels as indices of the different ones, `<int32>[n]` a split, and their names.

    Labels that are not classes are left out, which is reported.

    Raises:
      UserError: labels and images differ in number.
    """
    if not labels:
        return {}, ()
    columns = []
    for name, array in images.items():
        found = labels.get(name)
        if found is not None and found.shape[:1] != (len(array),):
            raise UserError(
                f"{path}: {len(array)} images, but labels of the shape {found.shape} ({name}); "
                "must be one label an image"
            )
        columns.append(None if found is None else _as_classes(found))
        if columns[-1] is None:
            kind = "missing" if found is None else f"{found.dtype}{[*found.shape]}, not classes"
            print(f"{path!r}: labels of {name} are {kind}; all are left out", file=sys.stderr)
            return {}, ()
    values, indices = np.unique(np.concatenate(columns), return_inverse=True)
    ends = np.cumsum([len(array) for array in images.values()])
    pieces = np.split(indices.astype(np.int32), ends[:-1])
    return dict(zip(images, pieces, strict=True)), tuple(map(as_text, values))


def _as_classes(labels: np.ndarray) -> np.ndarray | None:
    """Returns one class an image, `<int or str>[n]`, or None where labels are something else.

    Args:
      labels: `[n]` or `[n, 1]`, whole numbers, text or bytes; or one-hot, `[n, classes]`.
    """
    kind = labels.dtype.kind
    if labels.ndim == 2 and labels.shape[1] > 1:
        is_one_hot = (
            kind in "biuf"
            and (np.sort(labels) == (np.arange(labels.shape[1]) == labels.shape[1] - 1)).all()
        )
        return labels.argmax(1) if is_one_hot else None
    column = labels.reshape(-1)
    if kind == "f" and (np.abs(column) < 2**31).all() and (column % 1 == 0).all():
        column = column.astype(np.int64)
    elif kind == "S":
        column = np.char.decode(column, "utf-8", "backslashreplace")
    is_class = len(column) == len(labels) and column.dtype.kind in "biuU"
    return column if is_class else None


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
