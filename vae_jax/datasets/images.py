"""A user's own images: from a path to three splits."""

import math
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from vae_jax.datasets import image_folder
from vae_jax.datasets.structs import Split
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path

# By which images without splits of their own are shuffled, once: part of what the test set is.
SPLIT_SEED = 20_260_321

# As many as Pillow reads of an image.
_MAX_PIXELS = 89_478_485


def load(
    path: str | None,
    data_folder: pathlib.Path,
    image_size: Sequence[int],
    channels: int,
    validation_size: int,
    test_size: int,
    skip_damaged: bool,
    levels: int = 0,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads images from a folder of image files, an `.npz` or an `.npy`.

    Splits that the file has are kept. Others are taken from its images in the order of a fixed
    shuffle, first the test split, then the validation split.

    Args:
      path: the folder or file.
      data_folder: where decoded images are kept.
      image_size: height and width to bring images to; () where they have one size already.
      channels: 1 or 3; 0 for 1 where all are gray and else 3.
      validation_size: the number of images of that split.
      test_size: likewise.
      skip_damaged: leave out image files that cannot be decoded.
      levels: values run from 0 (black) to `levels - 1` (white); 0 for the range of their type.

    Returns:
      The splits "train", "validation" and "test", and the names of the classes.

    Raises:
      UserError: an argument is not allowed, the images cannot be read, or there are too few.
    """
    _check_arguments(path, image_size, channels)
    assert path
    splits, class_names = read(path, image_size, channels, skip_damaged, data_folder, levels)
    return _split(splits, path, validation_size, test_size), class_names


def read(
    path: str,
    image_size: Sequence[int] = (),
    channels: int = 0,
    skip_damaged: bool = False,
    data_folder: pathlib.Path | None = None,
    levels: int = 0,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads images from a folder of image files, an image file, an `.npz` or an `.npy`.

    Args:
      path: the folder or file.
      image_size: as for `load`, like what follows.
      channels: likewise.
      skip_damaged: likewise.
      data_folder: where decoded images are kept; nowhere if None.
      levels: as for `load`.

    Returns:
      The file's own splits, "train" and one or both others, or else the one split "all", each in
      the order of the file's rows or of the names; and the names of the classes.

    Raises:
      UserError: the images cannot be read.
    """
    resolved = str(local_path("data.path", path))
    try:
        is_folder = os.path.isdir(resolved)
        os.stat(resolved)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"data.path={path}: cannot be read ({reason})") from error
    is_image = resolved.lower().endswith(image_folder.SUFFIXES)
    if not is_folder and not is_image and not resolved.lower().endswith((".npz", ".npy")):
        raise UserError(
            f"data.path={path} is neither a folder of images nor an image, .npz or .npy"
        )
    try:
        if is_folder or is_image:
            kept = data_folder if is_folder else None
            return _load_folder(resolved, kept, (image_size, channels, skip_damaged, levels))
        from vae_jax.datasets import image_arrays  # here and not above: this imports Pillow

        return image_arrays.load(resolved, image_size, channels, levels)
    except MemoryError as error:
        raise UserError(
            f"data.path={path}: the images take more memory than there is; give fewer, or a "
            "smaller data.image_size"
        ) from error


def _check_arguments(path: str | None, image_size: Sequence[int], channels: int) -> None:
    if not path:
        raise UserError(
            "data.name is images, but data.path is not set: give a folder of images, an .npz or an "
            ".npy file with --config.data.path=PATH"
        )
    if image_size and (len(image_size) != 2 or min(image_size) < 1):
        raise UserError(f"data.image_size is {image_size!r}, must be (height, width), or ()")
    if math.prod(image_size) > _MAX_PIXELS:
        raise UserError(f"data.image_size is {image_size!r}, more than {_MAX_PIXELS} pixels")
    if channels not in (0, 1, 3):
        raise UserError(f"data.channels is {channels!r}, must be 1, 3, or 0 to keep what there is")


def _load_folder(
    path: str, data_folder: pathlib.Path | None, settings: tuple[Sequence[int], int, bool, int]
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the images of a folder, or one image file, as `image_files.decode` takes `settings`."""
    # Here and not above: Pillow again.
    from vae_jax.datasets import image_cache, image_files

    folder = image_folder.list_images(path)
    split_of, labels, class_names = image_folder.arrange(folder)
    images, left_out, note = (
        image_cache.load(folder, data_folder, *settings)
        if data_folder
        else image_files.decode(folder, *settings)
    )
    names, lines = np.array([*map(image_folder.as_text, folder.files)]), [note] if note else []
    if folder.num_others:
        lines.append(f"{folder.num_others} files are no images by name")
    if outputs := folder.outputs:
        first = repr(outputs[0])
        lines.append(f"{len(outputs)} folders of runs or output are left out, the first: {first}")
    if left_out:
        first, reason = next(iter(left_out.items()))
        lines.append(
            f"{len(left_out)} of {len(folder.files)} images are left out, the first: "
            f"{folder.files[first]!r} {reason!r}"
        )
        names, split_of = np.delete(names, [*left_out]), np.delete(split_of, [*left_out])
        if labels is not None:
            labels = np.delete(labels, [*left_out])
    for line in lines:
        print(f"{path!r}: {line}", file=sys.stderr)
    whole = Split(images=images, labels=labels, names=names)
    if "all" in split_of:
        return {"all": whole}, class_names
    if "train" not in split_of:
        raise UserError(f"{path}: no training image can be read")
    order = [name for name in ("train", "validation", "test") if name in split_of]
    return {name: whole[split_of == name] for name in order}, class_names


def _split(
    splits: dict[str, Split], path: str, validation_size: int, test_size: int
) -> dict[str, Split]:
    """Takes validation and test images, where the splits have none, from the others."""
    sizes = {"test": test_size, "validation": validation_size}
    missing = {name: size for name, size in sizes.items() if name not in splits}
    if not missing:
        return splits
    rest = splits.get("all") or splits["train"]
    wanted = " and ".join(f"data.{name}_size {size}" for name, size in missing.items())
    if min(missing.values()) < 1 or sum(missing.values()) >= len(rest):
        raise UserError(
            f"{wanted}: must be at least 1 each (2 of test to train), and leave at least 1 of the "
            f"{len(rest)} images of data.path={path} for training"
        )
    # RandomState and not default_rng: NumPy promises never to change its stream.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(rest))
    taken = dict(splits)
    for name, size in missing.items():
        taken[name], order = rest[order[:size]], order[size:]
    return {"train": rest[order], "validation": taken["validation"], "test": taken["test"]}
