"""Images that a user gives a trained model."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from vae_jax import datasets
from vae_jax.datasets import Split
from vae_jax.evaluation.trained_run import TrainedRun, load_data
from vae_jax.runtime.errors import UserError, check_choice


def read_splits(
    run: TrainedRun, input: str | os.PathLike[str] | None, own: Sequence[str] = ("test",)
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads a folder of images, an `.npz` or an `.npy`; the run's `own` splits if it is None.

    Returns:
      The splits, "all" if the input has none of its own, and the names of the classes, the run's
      if its model is conditional.

    Raises:
      UserError: they cannot be read, or the model is conditional and labels are missing or unknown.
    """
    if input is None:
        dataset = load_data(run)
        return {name: getattr(dataset, name) for name in own}, dataset.class_names
    height, width, channels = run.replicas[0].model.image_shape
    data = run.config.data
    options = datasets.DataOptions(
        data_dir=data.data_dir,
        image_size=(height, width),
        channels=channels,
        levels=data.levels,
        skip_damaged=data.skip_damaged,
    )
    try:
        splits, class_names = datasets.read_images(os.fspath(input), options)
    except UserError as error:
        raise UserError(str(error).replace("data.path=", "--input=")) from error
    sizes = ", ".join(f"{len(split)} images ({name})" for name, split in splits.items())
    print(f"{input}: {sizes}; those of another size are brought to {height}x{width}x{channels}")
    if not run.replicas[0].model.num_classes:
        return splits, class_names
    if any(split.labels is None for split in splits.values()):
        raise UserError(
            f"--input={input}: has no labels, which this conditional model needs; put the images "
            "into a folder for each class, or give an .npz with labels"
        )
    known = run.source.spec.class_names
    for name in class_names:
        check_choice(f"--input={input}: a class", name, known)
    numbers = np.array([known.index(name) for name in class_names], np.int32)
    return {
        name: dataclasses.replace(split, labels=numbers[split.labels])
        for name, split in splits.items()
    }, known


def join(splits: dict[str, Split]) -> Split:
    """Puts splits one after another."""

    def concatenate(field: str) -> np.ndarray | None:
        arrays = [array for each in splits.values() if (array := getattr(each, field)) is not None]
        return np.concatenate(arrays) if arrays else None

    images = datasets.concatenate([split.images for split in splits.values()])
    return Split(images, concatenate("labels"), concatenate("names"))
