"""A user's own images: from a path to splits."""

import os

import numpy as np

from vae_jax.datasets import image_folder
from vae_jax.datasets.structs import DataOptions, Split
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path

# Seed of the one shuffle of images without splits of their own: part of the test set's definition.
SPLIT_SEED = 20_260_321
# The largest fraction of white that is nearly black: 4 bits or scikit-learn's digits (0 to 16) in
# bytes, 12 bits in 16.
_NEARLY_BLACK = 16 / 255


def read(path: str, options: DataOptions) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads images from a folder of image files, an image file, an `.npz` or an `.npy`.

    All but small arrays stay in files, their own or one below `options.data_dir`, and are read by
    rows (`StoredImages`).

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
    if os.path.isdir(resolved) or resolved.lower().endswith(image_folder.SUFFIXES):
        return _read_files(resolved, options)
    if resolved.lower().endswith((".npz", ".npy")):
        return image_arrays.load(resolved, options)
    raise UserError(f"data.path={path} is neither a folder of images nor an image, .npz or .npy")


def _read_files(path: str, options: DataOptions) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads the images of a folder, or one image file."""
    from vae_jax.datasets import image_cache  # here: this imports Pillow

    folder = image_folder.list_images(path)
    split_of, labels, class_names = image_folder.arrange(folder)
    images, rows = image_cache.load(folder, options)
    names, given, split_of = np.array(folder.files)[rows], {*split_of}, split_of[rows]
    all_images = Split(images, None if labels is None else labels[rows], names)
    if lost := sorted(given - {*split_of}):
        raise UserError(f"{path}: all {lost[0]} images are damaged")
    order = [name for name in ("all", "train", "validation", "test") if name in split_of]
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


def check_levels(highest: float, white: int, where: str) -> None:
    """Refuses images that are all nearly black: their values probably have another range.

    Args:
      highest: the highest value of all images.
      white: the value that means white.
      where: names the images in the error.
    """
    if highest / white <= _NEARLY_BLACK:
        levels = f"--config.data.levels={highest + 1} if {highest} is white, or " * (white > 1)
        raise UserError(
            f"{where}: no value exceeds {highest:.5g} and {white} is white, so all images are "
            f"nearly black; scale them, or set {levels}--config.data.levels={white + 1} if they "
            "are so dark"
        )
