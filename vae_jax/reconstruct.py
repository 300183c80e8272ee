"""Mode `reconstruct`: images beside their reconstructions."""

import os

import numpy as np

from vae_jax.evaluation import generation
from vae_jax.evaluation.image_output import npy_file, png_writer, write_npy
from vae_jax.evaluation.input_images import join, read_splits
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.model.structs import Batch
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
    data = to_batch(split)
    for replica in run.replicas:
        trained, folder = replica.model_and_params, replica.folder / _FOLDER
        path = replica.folder / f"{_FOLDER}.npy"
        write_pngs = png_writer(folder, len(data), split.names)
        with npy_file(path, len(data)) as write_rows:
            for start in range(0, len(data), _BLOCK):
                batch = data[start : start + _BLOCK]
                latents = generation.encode(*trained, batch).mean
                images = generation.decode(*trained, latents, batch)
                columns = [batch.to_intensities().images, images]
                for label in range(replica.model.num_classes):
                    labels = np.full(len(batch), label, np.int32)
                    columns.append(generation.decode(*trained, latents, Batch(labels=labels)))
                write_pngs(np.concatenate(columns, axis=2))
                write_rows(images)
        (replica.folder / _FILE_NAMES).unlink(missing_ok=True)  # of another input
        if split.names is not None:
            write_npy(replica.folder / _FILE_NAMES, split.names)
        print(f"wrote {len(data)} PNG files to {folder}, and {path}")


MODE = Mode(reconstruct, flags=run_flags(has_input=True))
