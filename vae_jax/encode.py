"""Mode `encode`: the posterior of every image, as `latents.npz`."""

import os
from typing import Any

import numpy as np

from vae_jax.evaluation import generation
from vae_jax.evaluation.input_images import read_splits
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.runtime.files import atomic_file
from vae_jax.training.batches import to_batch

_NAME = "latents.npz"


@run_mode(_NAME)
def encode(run: TrainedRun, input: str | os.PathLike[str] | None = None) -> None:
    """Writes mean and log-variance of q(z | x) of every image, with labels and file names.

    The arrays are named by split, as `test_mean`; without a split if the input has none. Without
    an input the images are the run's own.
    """
    splits, class_names = read_splits(run, input, ("train", "validation", "test"))
    for replica in run.replicas:
        arrays: dict[str, Any] = {"class_names": np.array(class_names)} if class_names else {}
        for name, split in splits.items():
            prefix = "" if name == "all" else f"{name}_"
            posterior = generation.encode(*replica.model_and_params, to_batch(split))
            parts = {**posterior.to_arrays(), "labels": split.labels, "names": split.names}
            arrays |= {f"{prefix}{part}": a for part, a in parts.items() if a is not None}
        path = replica.folder / _NAME
        with atomic_file(path) as file:
            np.savez_compressed(file, **arrays)
        print(f"wrote {path}: {', '.join(f'{len(s)} of {name}' for name, s in splits.items())}")


MODE = Mode(encode, flags=run_flags(has_input=True))
