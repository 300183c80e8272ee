"""Images that a user gives a trained model, and images that it gives back as files."""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vae_jax import datasets
from vae_jax.datasets import Split
from vae_jax.evaluation import generation
from vae_jax.evaluation.trained_run import TrainedRun, load_data
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import atomic_file, write_atomically
from vae_jax.training.batches import to_batch

_NUM_COMPARED = 500  # images whose negatives are reconstructed too
_MUCH_BETTER = 4.0  # ratio of mean squared errors from which negatives are reported


def read_splits(
    run: TrainedRun, input: str | os.PathLike[str] | None, own: Sequence[str] = ("test",)
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads a folder of images, an `.npz` or an `.npy`; the run's `own` splits if it is None.

    Returns:
      The splits, "all" if the input has none of its own, and the names of the classes: the run's,
      then those that the run does not know.

    Raises:
      UserError: they cannot be read, or the model is conditional and labels are missing or unknown.
    """
    if input is None:
        dataset = load_data(run)
        return {name: getattr(dataset, name) for name in own}, dataset.class_names
    height, width, channels = run.replicas[0].model.image_shape
    data = run.config.data
    try:
        options = datasets.DataOptions(
            data_dir=data.data_dir,
            image_size=(height, width),
            channels=channels,
            levels=data.levels,
            skip_damaged=data.skip_damaged,
        )
        splits, class_names = datasets.read_images(os.fspath(input), options)
    except UserError as error:
        raise UserError(str(error).replace("data.path=", "--input=")) from error
    sizes = ", ".join(
        f"{len(split)} images" + ("" if name == "all" else f" in the split {name!r}")
        for name, split in splits.items()
    )
    print(f"{input}: {sizes}; those of another size are brought to {height}x{width}x{channels}")
    all_names = _merge_classes(f"--input={input}", class_names, run)
    if all_names is not class_names:
        numbers = np.array([all_names.index(name) for name in class_names], np.int32)
        splits = {
            name: split
            if split.labels is None
            else dataclasses.replace(split, labels=numbers[split.labels])
            for name, split in splits.items()
        }
    _report_polarity(f"--input={input}", join(splits), run)
    return splits, all_names


def _merge_classes(name: str, class_names: tuple[str, ...], run: TrainedRun) -> tuple[str, ...]:
    """Returns the run's classes, then those of the input that it does not know."""
    known, is_conditional = run.source.spec.class_names, run.replicas[0].model.num_classes > 0
    if not class_names and is_conditional:
        raise UserError(
            f"{name}: has no labels, which this conditional model needs; put the images into a "
            "folder for each class, or give an .npz with labels"
        )
    if not class_names or not known:  # older runs do not record their classes
        return class_names
    unknown = [each for each in class_names if each not in known]
    if unknown:
        message = f"{name}: the run does not know the class {unknown[0]!r}"
        message += f" and {len(unknown) - 1} others" if unknown[1:] else ""
        if is_conditional:
            raise UserError(f"{message}; its classes: {', '.join(known)}")
        print(message, file=sys.stderr)
    return (*known, *unknown)


def _report_polarity(name: str, images: Split, run: TrainedRun) -> None:
    """Warns if the model reconstructs the images' negatives far better."""
    rows = np.linspace(0, len(images) - 1, min(len(images), _NUM_COMPARED)).astype(int)
    replica, errors = run.replicas[0], []
    shown = images.images[rows]
    for pixels in (shown, ~shown):
        data = dataclasses.replace(to_batch(images[rows]), images=pixels)
        reconstructions = generation.reconstruct(*replica.model_and_params, data)
        errors.append(float(((reconstructions - pixels / MAX_PIXEL) ** 2).mean()))
    if errors[1] * _MUCH_BETTER < errors[0]:
        print(
            f"{name}: the model reconstructs the negatives of these images far better (mean "
            f"squared error {errors[1]:.2g}, not {errors[0]:.2g}); if their polarity is not that "
            "of the training images, invert them",
            file=sys.stderr,
        )


def join(splits: dict[str, Split]) -> Split:
    """Puts splits one after another."""

    def concatenate(field: str) -> np.ndarray | None:
        arrays = [array for each in splits.values() if (array := getattr(each, field)) is not None]
        return np.concatenate(arrays) if arrays else None

    images = datasets.concatenate([split.images for split in splits.values()])
    return Split(images, concatenate("labels"), concatenate("names"))


@contextlib.contextmanager
def png_files(
    folder: Path, num_images: int, names: np.ndarray | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that writes the next images of a folder as PNG files, cut to [0, 1].

    Its images are `<float>[n, height, width, channels]`. Names are `<str>[num_images]`, subfolders
    included. If None, numbers replace all files whose names are numbers.

    Raises:
      UserError: two files would have the same name.
    """
    if names is None:
        for path in folder.glob("*.png"):
            if path.stem.isdecimal():
                path.unlink()
        width = len(str(num_images - 1))
        names = np.array([f"{row:0{width}}" for row in range(num_images)])
    files = [name if name.lower().endswith(".png") else f"{name}.png" for name in map(str, names)]
    if len({*files}) < len(files):
        twice = next(file for index, file in enumerate(files) if file in files[:index])
        raise UserError(f"two images would be written to {twice!r}; rename one")
    left = iter(files)

    def write(images: np.ndarray) -> None:
        for image in np.rint(images.clip(0.0, 1.0) * MAX_PIXEL).astype(np.uint8):
            path = folder / next(left)
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png")
            write_atomically(path, buffer.getvalue())

    yield write


@contextlib.contextmanager
def npy_file(path: Path, num_rows: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that appends rows to an `.npy` file, which appears when all are written."""
    with atomic_file(path) as file:

        def write(rows: np.ndarray) -> None:
            if not file.tell():
                shape = (num_rows, *rows.shape[1:])
                descr = np.lib.format.dtype_to_descr(rows.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(rows).data)

        yield write


def write_npy(path: Path, array: np.ndarray) -> None:
    """Writes an array as `.npy`, atomically."""
    with atomic_file(path) as file:
        np.save(file, array)
