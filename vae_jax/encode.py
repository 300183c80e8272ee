"""Mode `encode`: the posterior of every image, as `latents.npz`."""

import io
import os

import numpy as np

from vae_jax.evaluation import generation
from vae_jax.evaluation.input_images import read_splits
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.runtime.files import write_atomically
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
        arrays = {}
        for split_name, split in splits.items():
            posterior = generation.encode(*replica.model_and_params, to_batch(split))
            prefix = "" if split_name == "all" else f"{split_name}_"
            known = {"labels": split.labels, "names": split.names}
            for name, array in {**posterior.to_arrays(), **known}.items():
                if array is not None:
                    arrays[f"{prefix}{name}"] = array
        if class_names:
            arrays["class_names"] = np.array(class_names)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        path = replica.folder / _NAME
        write_atomically(path, buffer.getvalue())
        sizes = ", ".join(f"{len(split)} of {name}" for name, split in splits.items())
        print(f"wrote {path}: {sizes}")


MODE = Mode(encode, flags=run_flags(has_input=True))
