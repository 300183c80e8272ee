"""Mode `encode`: the posterior of every image, as `latents.npz`."""

import io
import os
from typing import Any

import numpy as np

from vae_jax.datasets import Split
from vae_jax.evaluation import generation
from vae_jax.evaluation.input_images import read_input
from vae_jax.evaluation.trained_run import Replica, load_data, restore_to_write
from vae_jax.modes import Mode, run_flags
from vae_jax.runtime.files import write_atomically
from vae_jax.training.batches import to_batch
from vae_jax.training.run_directory import RunDirectory

_NAME = "latents.npz"


def encode(
    source: RunDirectory,
    input: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Writes mean and log-variance of q(z | x) of every image, with labels and file names.

    The arrays are named by split, as `test_mean`; without a split where the input has none.

    Args:
      source: the run directory.
      input: a folder of image files, an `.npz` or an `.npy`; the run's own data if None.
      output: where the file goes; the run directory if None.

    Raises:
      UserError: there is no run, or its data or the input cannot be had.
    """
    run = restore_to_write(source, output, [_NAME], input)
    if input is None:
        dataset = load_data(run)
        splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
        class_names = dataset.class_names
    else:
        splits, class_names = read_input(input, run)
    for replica in run.replicas:
        arrays: dict[str, Any] = {
            name if split_name == "all" else f"{split_name}_{name}": array
            for split_name, split in splits.items()
            for name, array in _arrays(replica, split).items()
        }
        if class_names:
            arrays["class_names"] = np.array(class_names)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        path = replica.folder / _NAME
        write_atomically(path, buffer.getvalue())
        sizes = ", ".join(f"{len(split)} of {name}" for name, split in splits.items())
        print(f"wrote {path}: {sizes}")


def _arrays(replica: Replica, split: Split) -> dict[str, np.ndarray]:
    posterior = generation.encode(replica.model, replica.params, to_batch(split))
    arrays = {**posterior.to_arrays(), "labels": split.labels, "names": split.names}
    return {name: array for name, array in arrays.items() if array is not None}


MODE = Mode(encode, flags=run_flags(has_input=True))
