"""Mode `encode`: the posterior of every image, as `latents.npz`."""

import io
import os
from typing import Any

import ml_collections
import numpy as np

from vae_jax.datasets import Split
from vae_jax.evaluation import generation
from vae_jax.evaluation.input_images import read_input
from vae_jax.evaluation.trained_run import Replica, load_data, restore_to_write
from vae_jax.runtime.files import write_atomically

_NAME = "latents.npz"


def encode(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    input: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Writes mean and log-variance of q(z | x) of every image, with labels and file names.

    The arrays are named by split, as `test_mean`; without a split where the input has none.

    Args:
      config: the run's.
      workdir: the run directory.
      input: a folder of image files, an `.npz` or an `.npy`; the run's own data if None.
      output: where the file goes; the run directory if None.

    Raises:
      UserError: there is no run, or its data or the input cannot be had.
    """
    run = restore_to_write(config, workdir, output)
    if input is None:
        dataset = load_data(config, run)
        splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
        class_names = dataset.class_names
    else:
        splits, class_names = read_input(input, config, run)
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
    mean, log_var = generation.encode(replica.model, replica.params, split.images)
    arrays = {"mean": mean, "log_var": log_var, "labels": split.labels, "names": split.names}
    return {name: array for name, array in arrays.items() if array is not None}
