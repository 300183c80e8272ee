"""Images in `.npz` and `.npy` files, read without unpickling anything."""

import collections
import sys
from collections.abc import Collection, Mapping

import numpy as np
from PIL import Image

from vae_jax.datasets import image_files
from vae_jax.datasets.image_folder import SPLITS, as_text
from vae_jax.datasets.levels import check_levels
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
# Numbers are rounded in blocks of images, which takes little memory.
_BLOCK = 1_000
_ALLOWED = "uint8, or floats from 0 to 1, or integers from 0 to data.levels - 1"


def load(path: str, options: DataOptions) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the images of an `.npz` or `.npy` file, and their labels if present.

    Returns the file's own splits ("train" and one or both others), or else one, "all"; and the
    names of the classes, which are the different labels, sorted.
    """
    arrays, labels = _read(path)
    images = {}
    for split, array in arrays.items():
        where = path if split == "all" else f"{path}: {split}"
        images[split] = _as_uint8(_with_four_axes(array, where, options), where, options)
    shapes = {split: array.shape[1:] for split, array in images.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{path}: the splits' images differ in shape: {shapes}")
    indices, class_names = _as_indices(path, images, labels)
    return {
        split: Split(_fit(array, options), indices.get(split)) for split, array in images.items()
    }, class_names


def _read(path: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads the arrays of images and of labels, by split."""
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"all": loaded}, {}
            image_keys, label_keys = _find_keys(path, loaded.files)
            labels = {}
            for split, key in label_keys.items():
                try:
                    labels[split] = np.asarray(loaded[key])
                except ValueError as error:  # Python objects
                    print(f"{path!r}: {key!r} is not read: {error}", file=sys.stderr)
            # A member that is not an array is given as bytes.
            images = {split: np.asarray(loaded[key]) for split, key in image_keys.items()}
            return images, labels
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damage shows as almost any exception of zipfile's and NumPy's
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"{path}: cannot be read, is damaged, or holds no array of numbers ({reason})"
        ) from error


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


def _with_four_axes(array: np.ndarray, where: str, options: DataOptions) -> np.ndarray:
    """Returns images as `[n, height, width, channels]`.

    If three axes end in 1 or 3, the shape that images are brought to tells one image from many.
    """
    shape, size, channels = array.shape, options.image_size, options.channels
    is_one = shape == size  # a gray image
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


def _as_uint8(images: np.ndarray, where: str, options: DataOptions) -> np.ndarray:
    """Returns images as `<uint8>`, 255 for white."""
    kind, levels, is_bytes = images.dtype.kind, options.levels, images.dtype == np.uint8
    if levels == 0 and (kind in "bf" or is_bytes):
        check_levels(images, where)
    if kind == "b":
        return images * np.uint8(255)
    if is_bytes and levels in (0, 256):
        return np.ascontiguousarray(images)
    if kind == "f" or (levels and kind in "iu"):
        return _round(images, where, max(levels, 2) - 1)
    found = f" from {images.min()} to {images.max()}" if kind in "iu" else ""
    raise UserError(f"{where} is {images.dtype}{found}, must be {_ALLOWED}")


def _round(array: np.ndarray, where: str, white: int) -> np.ndarray:
    """Rounds numbers in [0, white] to 256 levels, and reports the loss."""
    low, high = array.min(), array.max()  # NaN if one of them is
    if not (low >= 0 and high <= white):
        allowed = f"from 0 to {white}, by data.levels" if white > 1 else _ALLOWED
        raise UserError(f"{where} is {array.dtype} from {low} to {high}, must be {allowed}")
    images, loss = np.empty(array.shape, np.uint8), 0.0
    for start in range(0, len(array), _BLOCK):
        scaled = array[start : start + _BLOCK] * (255.0 / white)
        images[start : start + _BLOCK] = levels = np.rint(scaled)
        loss = max(loss, float(np.abs(scaled - levels).max()) / 255)
    kind = array.dtype.type if array.dtype.kind == "f" else float
    if loss > np.finfo(kind).eps:  # a level itself loses less in its type
        print(f"{where!r}: rounded to 256 levels, by up to {loss:.2g} of white", file=sys.stderr)
    return images


def _as_indices(
    path: str, images: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns labels as indices of the different ones, `<int32>[n]` a split, and their names.

    Labels that are not classes are left out, which is reported.
    """
    if not labels:
        return {}, ()
    columns = []
    for split, array in images.items():
        given = labels.get(split)
        if given is not None and given.shape[:1] != (len(array),):
            raise UserError(
                f"{path}: {len(array)} images, but labels of the shape {given.shape} ({split}); "
                "must be one label for each image"
            )
        column = None if given is None else _as_classes(given)
        if column is None:
            kind = "missing" if given is None else f"{given.dtype}{[*given.shape]}, not classes"
            print(f"{path!r}: labels of {split} are {kind}; all are left out", file=sys.stderr)
            return {}, ()
        columns.append(column)
    values, indices = np.unique(np.concatenate(columns), return_inverse=True)
    ends = np.cumsum([len(array) for array in images.values()])
    pieces = np.split(indices.astype(np.int32), ends[:-1])
    return dict(zip(images, pieces, strict=True)), tuple(map(as_text, values))


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


def _fit(images: np.ndarray, options: DataOptions) -> np.ndarray:
    """Brings images to the size and number of channels of the options."""
    count, height, width, channels = images.shape
    shape = (count, *(options.image_size or (height, width)), options.channels or channels)
    if shape == images.shape:
        return images
    result = np.empty(shape, np.uint8)

    def fit(row: int) -> None:
        image = Image.fromarray(images[row, ..., 0] if channels == 1 else images[row])
        result[row] = np.atleast_3d(np.asarray(image_files.fit(image, options)))

    with image_files.map_on_cores(fit, range(count)) as fitted:
        collections.deque(fitted, maxlen=0)  # runs them all
    return result
