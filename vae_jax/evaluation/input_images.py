"""Images that a user gives a trained model, and images that it gives back as files."""

import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from vae_jax import datasets
from vae_jax.datasets import Split
from vae_jax.evaluation import generation
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_atomically
from vae_jax.training.batches import to_batch

# Images whose polarity is looked at, and how much smaller an error is that says something.
_NUM_COMPARED = 500
_MUCH_BETTER = 4.0


def read_input(
    path: str | os.PathLike[str], run: TrainedRun
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads images as `data.path` does, and says what there is.

    Args:
      path: a folder of image files, an `.npz` or an `.npy`.
      run: to the size of whose images they are brought; its configuration says whether image files
        that cannot be decoded are left out.

    Returns:
      The splits, "all" where the file has none of its own, and the names of the classes: the run's,
      then those that the run does not know.

    Raises:
      UserError: they cannot be read, or the model is conditional and labels are missing or unknown.
    """
    height, width, channels = run.replicas[0].model.image_shape
    data = run.config.data
    try:
        options = datasets.DataOptions(
            image_size=(height, width),
            channels=channels,
            levels=data.levels,
            skip_damaged=data.skip_damaged,
        )
        splits, class_names = datasets.read_images(os.fspath(path), options)
    except UserError as error:
        raise UserError(str(error).replace("data.path=", "--input=")) from error
    sizes = ", ".join(
        f"{len(split)} images" + ("" if name == "all" else f" in the split {name!r}")
        for name, split in splits.items()
    )
    print(f"{path}: {sizes}; those of another size are brought to {height}x{width}x{channels}")
    splits, class_names = _with_classes_of_run(path, splits, class_names, run)
    _report_polarity(path, join(splits), run)
    return splits, class_names


def _report_polarity(path: str | os.PathLike[str], images: Split, run: TrainedRun) -> None:
    """Says so where the model reconstructs the images' negatives better by far."""
    rows = np.linspace(0, len(images) - 1, min(len(images), _NUM_COMPARED)).astype(int)
    replica, errors = run.replicas[0], []
    for pixels in (images.images[rows], ~images.images[rows]):
        data = dataclasses.replace(to_batch(images[rows]), images=pixels)
        difference = (
            generation.reconstruct(replica.model, replica.params, data) - pixels / MAX_PIXEL
        )
        errors.append(float((difference**2).mean()))
    if errors[1] * _MUCH_BETTER < errors[0]:
        print(
            f"--input={path}: the model reconstructs the negatives of these images far better (mean"
            f" squared error {errors[1]:.2g}, not {errors[0]:.2g}); if these are dark on light and "
            "the training images light on dark, or the other way round, invert them",
            file=sys.stderr,
        )


def _with_classes_of_run(
    path: str | os.PathLike[str],
    splits: dict[str, Split],
    class_names: tuple[str, ...],
    run: TrainedRun,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Numbers the labels as the run does, by the classes' names."""
    known, is_conditional = run.source.spec.class_names, run.replicas[0].model.num_classes > 0
    if not class_names and is_conditional:
        raise UserError(
            f"--input={path}: has no labels, which this conditional model needs; put the images "
            "into a folder for each class, or give an .npz with labels"
        )
    if not class_names or not known:  # older runs do not record their classes
        return splits, class_names
    unknown = tuple(name for name in class_names if name not in known)
    if unknown:
        named = f"--input={path}: the run does not know the class {unknown[0]!r}"
        several = f" and {len(unknown) - 1} others" if unknown[1:] else ""
        if is_conditional:
            raise UserError(f"{named}{several}; its classes: {', '.join(known)}")
        print(f"{named}{several}", file=sys.stderr)
    all_names = (*known, *unknown)
    numbers = np.array([all_names.index(name) for name in class_names], np.int32)
    renumbered = {
        name: split
        if split.labels is None
        else dataclasses.replace(split, labels=numbers[split.labels])
        for name, split in splits.items()
    }
    return renumbered, all_names


def join(splits: dict[str, Split]) -> Split:
    """Puts splits one after another."""

    def joined(arrays: list[np.ndarray | None]) -> np.ndarray | None:
        found = [array for array in arrays if array is not None]
        return np.concatenate(found) if found else None

    each = [*splits.values()]
    return Split(
        images=np.concatenate([split.images for split in each]),
        labels=joined([split.labels for split in each]),
        names=joined([split.names for split in each]),
    )


def png_bytes(image: np.ndarray) -> bytes:
    """Encodes intensities `<float>[height, width, channels]`; beyond [0, 1] they are cut."""
    levels = np.rint(image.clip(0.0, 1.0) * MAX_PIXEL).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).save(buffer, "png")
    return buffer.getvalue()


def write_pngs(folder: Path, images: np.ndarray, names: np.ndarray | None = None) -> None:
    """Writes each image as a PNG file, intensities as they are.

    Args:
      folder: made where there is none.
      images: `<float>[n, height, width, channels]`.
      names: of the files, `<str>[n]`, subfolders included; numbers if None, and numbered files
        of before are then removed.

    Raises:
      UserError: two images have the same name.
    """
    if names is None:
        for path in folder.glob("*.png"):
            if path.stem.isdecimal():
                path.unlink()
    width = len(str(len(images) - 1))
    numbers = [f"{row:0{width}}" for row in range(len(images))]
    files = _png_names(numbers if names is None else [*map(str, names)])
    rows = tqdm(range(len(images)), unit=" files", disable=not sys.stderr.isatty())
    for row in rows:
        path = folder / files[row]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, png_bytes(images[row]))


def _png_names(names: Sequence[str]) -> list[str]:
    """Returns a PNG file's name for each name, no two alike.

    Raises:
      UserError: two of the names are alike.
    """
    taken, files = {*names}, []
    for name in names:
        file = name
        while PurePosixPath(file).suffix.lower() != ".png" or (file != name and file in taken):
            file += ".png"
        files.append(file)
    if len(taken) < len(files):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise UserError(f"two images are named {twice!r}, which would be one file; rename one")
    return files


def write_npy(path: Path, array: np.ndarray) -> None:
    """Writes an array as `.npy`, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())
