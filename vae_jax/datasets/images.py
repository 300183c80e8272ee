"""A user's own images: from a path to splits."""

import os
import sys
from pathlib import Path

import numpy as np

from vae_jax.datasets import image_folder
from vae_jax.datasets.structs import DataOptions, Split
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path

# Seed of the one shuffle of images without splits of their own: part of the test set's definition.
SPLIT_SEED = 20_260_321


def read(
    path: str, options: DataOptions, cache_folder: Path | None = None
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads images from a folder of image files, an image file, an `.npz` or an `.npy`.

    With a `cache_folder`, decoded and converted images are stored there and read by rows
    (`StoredImages`). An array of more than 1 MiB that needs no conversion stays in its own file.

    Returns:
      The file's own splits, "train" and one or both others, or else one split, "all", each in the
      order of the file's rows or of the names; and the names of the classes.

    Raises:
      UserError: the images cannot be read, or only nearly black ones while `options.levels` is 0.
    """
    from vae_jax.datasets import image_arrays  # here: this imports Pillow

    resolved = str(local_path("data.path", path))
    if not os.path.exists(resolved):
        raise UserError(f"data.path={path}: cannot be read (no such file or folder)")
    try:
        if os.path.isdir(resolved) or resolved.lower().endswith(image_folder.SUFFIXES):
            return _read_files(resolved, options, cache_folder)
        if resolved.lower().endswith((".npz", ".npy")):
            return image_arrays.load(resolved, options, cache_folder)
    except MemoryError as error:
        raise UserError(
            f"data.path={path}: the images need more memory than this machine has; give fewer, or "
            "a smaller data.image_size"
        ) from error
    raise UserError(f"data.path={path} is neither a folder of images nor an image, .npz or .npy")


def _read_files(
    path: str, options: DataOptions, cache_folder: Path | None
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads the images of a folder, or one image file."""
    from vae_jax.datasets import image_cache, image_files  # here: these import Pillow

    folder = image_folder.list_images(path)
    split_of, labels, class_names = image_folder.arrange(folder)
    if cache_folder and os.path.isdir(path):
        images, rows, notes = image_cache.load(folder, options, cache_folder)
    else:
        images, rows, notes = image_files.decode(folder, options)
    if folder.num_others:
        notes.append(f"{folder.num_others} files are not images by their names")
    if folder.outputs:
        first = repr(folder.outputs[0])
        notes.append(f"{len(folder.outputs)} folders of runs or output are ignored, as {first}")
    for note in notes:
        print(f"{path!r}: {note}", file=sys.stderr)
    names, split_of = np.array([*map(image_folder.as_text, folder.files)])[rows], split_of[rows]
    all_images = Split(images, None if labels is None else labels[rows], names)
    if "all" in split_of:
        return {"all": all_images}, class_names
    if "train" not in split_of:
        raise UserError(f"{path}: no training image can be read")
    order = [name for name in ("train", "validation", "test") if name in split_of]
    return {name: all_images[split_of == name] for name in order}, class_names


def hold_out(
    splits: dict[str, Split], path: str, validation_size: int, test_size: int
) -> dict[str, Split]:
    """Takes missing test and validation images, in this order, from the others after a shuffle."""
    sizes = {"test": test_size, "validation": validation_size}
    missing = {name: size for name, size in sizes.items() if name not in splits}
    if not missing:
        return splits
    rest = splits.get("all") or splits["train"]
    if sum(missing.values()) >= len(rest):
        wanted = " and ".join(f"data.{name}_size {size}" for name, size in missing.items())
        raise UserError(
            f"{wanted} must leave at least 1 of the {len(rest)} images of data.path={path} for "
            "training"
        )
    # RandomState and not default_rng: NumPy promises never to change its stream.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(rest))
    held_out = dict(splits)
    for name, size in missing.items():
        held_out[name], order = rest[order[:size]], order[size:]
    return {"train": rest[order], "validation": held_out["validation"], "test": held_out["test"]}
