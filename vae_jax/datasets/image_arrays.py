"""Images in `.npz` and `.npy` files, read without unpickling anything."""

import contextlib
import hashlib
import math
import os
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from vae_jax.datasets import array_files, cache, image_cache, image_files
from vae_jax.datasets.array_files import ArrayFile
from vae_jax.datasets.image_folder import SPLITS, as_text
from vae_jax.datasets.levels import check_levels, is_nearly_black
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
# Images of fewer bytes are read into memory.
_SMALL = 1 << 20
# To be raised whenever the same array would be converted to other values.
_VERSION = 1
_ALLOWED = "uint8, or floats from 0 to 1, or integers from 0 to data.levels - 1"


def load(
    path: str, options: DataOptions, cache_folder: Path | None = None
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the images of an `.npz` or `.npy` file, and their labels if present.

    Images of 1 MiB or more stay in the file if they need no conversion; otherwise they are
    converted to a file in `cache_folder`, if given.

    Returns the file's own splits ("train" and one or both others), or else one, "all"; and the
    names of the classes, which are the different labels, sorted.
    """
    arrays, labels = _read(path)
    for split, array in arrays.items():
        shape = _with_four_axes(array.shape, _place(path, split), options)
        arrays[split] = array._replace(shape=shape)
    shapes = {split: array.shape[1:] for split, array in arrays.items()}
    if len({*shapes.values()}) > 1:
        raise UserError(f"{path}: the splits' images differ in shape: {shapes}")
    lengths = {split: array.shape[0] for split, array in arrays.items()}
    indices, class_names = _as_indices(path, lengths, labels)
    height, width, channels = next(iter(shapes.values()))
    shape = (*(options.image_size or (height, width)), options.channels or channels)
    is_small = sum(lengths.values()) * math.prod(shape) < _SMALL
    if not is_small and (original := _original(arrays, shape, options)):
        images, notes = {"all": original}, []
    elif cache_folder and not is_small:
        images, notes = _stored(arrays, shape, options, cache_folder)
    else:
        images, notes = _in_memory(arrays, shape, options)
    for note in notes:
        print(note, file=sys.stderr)
    return {split: Split(images[split], indices.get(split)) for split in arrays}, class_names


def _place(path: str, split: str) -> str:
    """Names an array in messages."""
    return path if split == "all" else f"{path}: {split}"


def _read(path: str) -> tuple[dict[str, ArrayFile], dict[str, np.ndarray]]:
    """Opens the arrays of images, and reads those of labels, by split."""
    with array_files.damage_as_user_error(path), open(path, "rb") as file:
        if file.read(2) != b"PK":
            return {"all": array_files.open_array(path)}, {}
        file.seek(0)
        with np.load(file, allow_pickle=False) as loaded:
            image_keys, label_keys = _find_keys(path, loaded.files)
            labels = {}
            for split, key in label_keys.items():
                try:
                    labels[split] = np.asarray(loaded[key])
                except ValueError as error:  # Python objects
                    print(f"{path!r}: {key!r} is not read: {error}", file=sys.stderr)
            members = loaded.zip.namelist()
        # np.load names a member without its suffix.
        files = {key: f"{key}.npy" for key in image_keys.values() if f"{key}.npy" in members}
        return {
            split: array_files.open_array(path, files.get(key, key))
            for split, key in image_keys.items()
        }, labels


def _find_keys(path: str, keys: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the keys of images and of labels, by split; reports all other keys."""
    images = {split: key for key, split in _IMAGES.items() if key in keys}
    if "all" in images:
        images = {"all": images["all"]}
    elif not {*images} > {"train"}:
        raise UserError(
            f"{path}: holds {', '.join(keys)[:200] or 'nothing'}; must hold one of these, labels "
            "if present: images (labels, label or y); x_train with x_val or x_test (y_train, ...); "
            "train_images with val_images or test_images (train_labels, ...)"
        )
    labels = {split: key for key, split in _LABELS.items() if key in keys and split in images}
    if unread := sorted({*keys} - {*images.values(), *labels.values()}):
        print(f"{path!r}: not read: {', '.join(map(repr, unread))}", file=sys.stderr)
    return images, labels


def _with_four_axes(shape: tuple[int, ...], where: str, options: DataOptions) -> tuple[int, ...]:
    """Returns the shape of images as `(n, height, width, channels)`.

    If three axes end in 1 or 3, the shape that images are brought to tells one image from many.
    """
    size, channels, full = options.image_size, options.channels, shape
    is_one = shape == size  # a gray image
    if len(shape) == 3 and shape[2] in (1, 3):
        is_one = shape[:2] == size or channels == shape[2] == 3
        if is_one == (channels != 3 and shape[1:] == size):
            raise UserError(
                f"{where} has the shape {shape}, which may be one image of {shape[2]} channels or "
                f"{shape[0]} gray images; save it with the shape {(1, *shape)} or {(*shape, 1)}"
            )
    full = (1, *full) if is_one else full
    full = (*full, 1) if len(full) == 3 else full
    if len(full) != 4 or full[3] not in (1, 3):
        raise UserError(
            f"{where} has the shape {shape}, must be [n, height, width] or "
            "[n, height, width, 1 or 3]"
        )
    if 0 in shape:
        raise UserError(f"{where} holds no images: its shape is {shape}")
    return full


def _original(
    arrays: dict[str, ArrayFile], image_shape: tuple[int, ...], options: DataOptions
) -> StoredImages | None:
    """Returns the images of an `.npy` file, or None if they need conversion."""
    array = next(iter(arrays.values()))
    is_bytes = array.dtype == np.uint8 and options.levels in (0, 256)
    if not is_bytes or array.member or array.is_fortran or array.shape[1:] != image_shape:
        return None
    if options.levels == 0:
        highest = np.uint8(0)
        for block in array.blocks():
            highest = np.maximum(highest, block.max())
            if not is_nearly_black(int(highest), 255):
                break  # no need to read the others
        check_levels(np.asarray(highest), array.path)
    height, width, channels = array.shape[1:]
    offsets = array.offset + np.arange(array.shape[0]) * (height * width * channels)
    key = cache.digest(cache.fingerprint(array.path))
    return StoredImages(array.path, key, offsets, (height, width, channels))


def _in_memory(
    arrays: dict[str, ArrayFile], image_shape: tuple[int, ...], options: DataOptions
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Converts images to arrays; returns notes too."""
    images, notes = {}, []
    for split, array in arrays.items():
        images[split] = np.empty((array.shape[0], *image_shape), np.uint8)
        start = 0
        for block in _converted(array, _place(array.path, split), options, notes):
            images[split][start : start + len(block)] = block
            start += len(block)
    return images, notes


def _stored(
    arrays: dict[str, ArrayFile],
    image_shape: tuple[int, ...],
    options: DataOptions,
    cache_folder: Path,
) -> tuple[dict[str, StoredImages], list[str]]:
    """Converts images to a file in the cache, unless they are there; returns notes too."""
    path = os.path.realpath(next(iter(arrays.values())).path)
    folder = image_cache.images_folder(cache_folder, path, options)
    height, width, channels = image_shape

    def make(scratch: Path) -> Path:
        made, notes, checksums = scratch / "images", [], []
        made.mkdir()
        with open(made / "pixels.bin", "wb") as file:
            for split, array in arrays.items():
                for block in _converted(array, _place(array.path, split), options, notes):
                    file.write(block.data)
                    checksums += map(zlib.crc32, block)
        record = {"checksums": np.array(checksums, np.uint32), "notes": np.array(notes, str)}
        np.savez(made / "record.npz", **record)
        return made

    def read(made: Path) -> tuple[dict[str, StoredImages], list[str]]:
        with np.load(made / "record.npz") as record:
            checksums, notes = record["checksums"], record["notes"].tolist()
        offsets = np.arange(len(checksums)) * math.prod(image_shape)
        stored = StoredImages(
            path=str(made / "pixels.bin"),
            key=hashlib.sha256(checksums.tobytes()).hexdigest(),
            offsets=offsets,
            image_shape=(height, width, channels),
            checksums=checksums,
            advice=image_cache.damage_advice(made),
        )
        images, start = {}, 0
        for split, array in arrays.items():
            images[split] = stored.select(slice(start, start := start + array.shape[0]))
        return images, notes

    key = cache.digest([_VERSION, PIL.__version__, cache.fingerprint(path)])
    return cache.read_or_make(folder, key, make, read)


def _converted(
    array: ArrayFile, where: str, options: DataOptions, notes: list[str]
) -> Iterator[np.ndarray]:
    """Yields blocks of images as `<uint8>`, 255 for white, of the size of the options.

    Adds a note if rounding loses values.

    Raises:
      UserError: see `load`; after the last block if values are out of range.
    """
    kind, levels, is_bytes = array.dtype.kind, options.levels, array.dtype == np.uint8
    if kind not in "biuf":
        raise UserError(f"{where} is {array.dtype}, must be {_ALLOWED}")
    white = -1  # not allowed
    if kind == "b" or kind == "f" or levels:
        white = 1 if kind == "b" else max(levels, 2) - 1
    elif is_bytes:
        white = 255

    def convert(block: np.ndarray) -> tuple[np.ndarray | None, Any, Any, float]:
        low, high = block.min(), block.max()  # NaN if one of them is
        if not (low >= 0 and high <= white):
            return None, low, high, 0.0
        pixels, loss = _to_levels(block, white)
        return _fit(pixels, options), low, high, loss

    lowest, highest, largest_loss = array.dtype.type(0), array.dtype.type(0), 0.0
    blocks = image_files.map_on_cores(convert, array.blocks())
    with contextlib.closing(blocks), image_files.progress_bar(array.shape[0]) as bar:
        for number, (pixels, low, high, loss) in enumerate(blocks):
            lowest = np.minimum(lowest, low) if number else low
            highest = np.maximum(highest, high) if number else high
            largest_loss = max(largest_loss, loss)
            if pixels is not None:
                yield pixels
                bar.update(len(pixels))
    if levels == 0 and (kind in "bf" or is_bytes):
        check_levels(highest, where)
    if not (lowest >= 0 and highest <= white):
        allowed = f"from 0 to {white}, by data.levels" if white > 1 and levels else _ALLOWED
        raise UserError(f"{where} is {array.dtype} from {lowest} to {highest}, must be {allowed}")
    float_type = array.dtype.type if kind == "f" else float
    if largest_loss > np.finfo(float_type).eps:  # a level itself loses less in its type
        notes.append(f"{where!r}: rounded to 256 levels, by up to {largest_loss:.2g} of white")


def _to_levels(block: np.ndarray, white: int) -> tuple[np.ndarray, float]:
    """Scales numbers in [0, white] to `<uint8>`; returns the largest loss, relative to white."""
    if block.dtype == bool:
        return block * np.uint8(255), 0.0
    if block.dtype == np.uint8 and white == 255:
        return np.ascontiguousarray(block), 0.0
    scaled = block * (255.0 / white)
    levels = np.rint(scaled)
    loss = float(np.abs(scaled - levels).max()) / 255
    return np.ascontiguousarray(levels.astype(np.uint8)), loss


def _fit(images: np.ndarray, options: DataOptions) -> np.ndarray:
    """Brings images to the size and number of channels of the options."""
    shape = images.shape[1:]
    if shape == (*(options.image_size or shape[:2]), options.channels or shape[2]):
        return images
    gray = images[..., 0] if shape[2] == 1 else images
    fitted = (image_files.fit(Image.fromarray(image), options) for image in gray)
    return np.stack([np.atleast_3d(np.asarray(image)) for image in fitted])


def _as_indices(
    path: str, lengths: Mapping[str, int], labels: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns labels as indices of the different ones, `<int32>[n]` a split, and their names.

    Labels that are not classes are left out, which is reported.
    """
    if not labels:
        return {}, ()
    columns = []
    for split, length in lengths.items():
        given = labels.get(split)
        if given is not None and given.shape[:1] != (length,):
            raise UserError(
                f"{path}: {length} images, but labels of the shape {given.shape} ({split}); "
                "must be one label for each image"
            )
        column = None if given is None else _as_classes(given)
        if column is None:
            kind = "missing" if given is None else f"{given.dtype}{[*given.shape]}, not classes"
            print(f"{path!r}: labels of {split} are {kind}; all are left out", file=sys.stderr)
            return {}, ()
        columns.append(column)
    values, indices = np.unique(np.concatenate(columns), return_inverse=True)
    ends = np.cumsum([*lengths.values()])
    pieces = np.split(indices.astype(np.int32), ends[:-1])
    return dict(zip(lengths, pieces, strict=True)), tuple(map(as_text, values))


def _as_classes(labels: np.ndarray) -> np.ndarray | None:
    """Returns one class for each image, `<int or str>[n]`, or None if labels are something else."""
    kind = labels.dtype.kind
    if labels.ndim == 2 and labels.shape[1] > 1:
        one_hot = np.arange(labels.shape[1]) == labels.shape[1] - 1  # of the last class
        is_one_hot = kind in "biuf" and (np.sort(labels) == one_hot).all()
        return labels.argmax(1) if is_one_hot else None
    column = labels.reshape(-1)
    if kind == "f" and (np.abs(column) < 2**31).all() and (column % 1 == 0).all():
        column = column.astype(np.int64)
    elif kind == "S":
        column = np.char.decode(column, "utf-8", "backslashreplace")
    is_class = len(column) == len(labels) and column.dtype.kind in "biuU"
    return column if is_class else None
