"""Mode `reconstruct`: images beside their reconstructions."""

import os

import numpy as np

from vae_jax.evaluation import generation
from vae_jax.evaluation.input_images import join, read_splits, write_npy, write_pngs
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.training.batches import to_batch

_FOLDER = "reconstructions"
_FILE_NAMES = f"{_FOLDER}_names.npy"


@run_mode(_FOLDER, f"{_FOLDER}.npy", _FILE_NAMES)
def reconstruct(run: TrainedRun, input: str | os.PathLike[str]) -> None:
    """Writes each image of the input, its reconstruction at its right, as a PNG file.

    A conditional model adds the same latents in every class: the style stays, the class changes.
    All reconstructions are in `reconstructions.npy` too, `<float32>[n, height, width, channels]`;
    the names of their files, row by row, in `reconstructions_names.npy`.
    """
    split = join(read_splits(run, input)[0])
    for replica in run.replicas:
        data = to_batch(split)
        images = generation.reconstruct(*replica.model_and_params, data)
        columns = [split.images / np.float32(MAX_PIXEL), images]
        columns += generation.reconstruct_in_every_class(*replica.model_and_params, data)
        write_pngs(replica.folder / _FOLDER, np.concatenate(columns, axis=2), split.names)
        path = replica.folder / f"{_FOLDER}.npy"
        write_npy(path, images)
        if split.names is None:
            (replica.folder / _FILE_NAMES).unlink(missing_ok=True)  # of another input
        else:
            write_npy(replica.folder / _FILE_NAMES, split.names)
        print(f"wrote {len(images)} PNG files to {replica.folder / _FOLDER}, and {path}")


MODE = Mode(reconstruct, flags=run_flags(has_input=True))
