"""Mode `reconstruct`: images beside their reconstructions."""

import os

import numpy as np

from vae_jax.evaluation import generation
from vae_jax.evaluation.input_images import join, npy_file, png_files, read_splits, write_npy
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.training.batches import to_batch

_FOLDER = "reconstructions"
_FILE_NAMES = f"{_FOLDER}_names.npy"
_BLOCK = 5_000  # images in memory at once


@run_mode(_FOLDER, f"{_FOLDER}.npy", _FILE_NAMES)
def reconstruct(run: TrainedRun, input: str | os.PathLike[str]) -> None:
    """Writes each image of the input, its reconstruction at its right, as a PNG file.

    A conditional model adds the same latents in every class: the style stays, the class changes.
    All reconstructions are in `reconstructions.npy` too, `<float32>[n, height, width, channels]`;
    the names of their files, row by row, in `reconstructions_names.npy`.
    """
    split = join(read_splits(run, input)[0])
    for replica in run.replicas:
        data, folder = to_batch(split), replica.folder / _FOLDER
        path = replica.folder / f"{_FOLDER}.npy"
        with (
            npy_file(path, len(data)) as write_rows,
            png_files(folder, len(data), split.names) as write_pngs,
        ):
            for start in range(0, len(data), _BLOCK):
                batch = data[start : start + _BLOCK]
                images = generation.reconstruct(*replica.model_and_params, batch)
                columns = [batch.images / np.float32(MAX_PIXEL), images]
                columns += generation.reconstruct_in_every_class(*replica.model_and_params, batch)
                write_pngs(np.concatenate(columns, axis=2))
                write_rows(images)
        if split.names is None:
            (replica.folder / _FILE_NAMES).unlink(missing_ok=True)  # of another input
        else:
            write_npy(replica.folder / _FILE_NAMES, split.names)
        print(f"wrote {len(data)} PNG files to {folder}, and {path}")


MODE = Mode(reconstruct, flags=run_flags(has_input=True))
