"""Mode `encode`: the posterior of every image, as `latents.npz`."""

import contextlib
import os
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vae_jax.datasets import Split
from vae_jax.evaluation import generation
from vae_jax.evaluation.image_output import npy_file
from vae_jax.evaluation.input_images import read_splits
from vae_jax.evaluation.trained_run import Replica, TrainedRun
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.runtime.files import atomic_file, scratch_folder
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
        path = replica.folder / _NAME
        with scratch_folder(replica.folder, f".{_NAME}.") as scratch:
            for name, split in splits.items():
                _encode_split(replica, split, scratch, "" if name == "all" else f"{name}_")
            if class_names:
                np.save(scratch / "class_names.npy", np.array(class_names))
            with (
                atomic_file(path) as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                for array in sorted(scratch.iterdir()):
                    archive.write(array, array.name)
        print(f"wrote {path}: {', '.join(f'{len(s)} of {name}' for name, s in splits.items())}")


def _encode_split(replica: Replica, split: Split, folder: Path, prefix: str) -> None:
    """Writes the arrays of a split as `.npy` files, some images at a time, with a progress bar."""
    bar = tqdm(desc="encoding", total=len(split), unit=" images", unit_scale=True, disable=None)
    with bar, contextlib.ExitStack() as stack:
        writers = {}
        for piece in generation.iterate_posteriors(*replica.model_and_params, to_batch(split)):
            for name, rows in piece.to_arrays().items():
                if name not in writers:
                    file = npy_file(folder / f"{prefix}{name}.npy", len(split))
                    writers[name] = stack.enter_context(file)
                writers[name](rows)
            bar.update(len(piece.mean))
    for name, array in (("labels", split.labels), ("names", split.names)):
        if array is not None:
            np.save(folder / f"{prefix}{name}.npy", array)


MODE = Mode(encode, flags=run_flags(has_input=True))
