"""Mode `reconstruct`: images beside what the model makes of them."""

import os

import numpy as np

from vae_jax.evaluation import generation
from vae_jax.evaluation.input_images import join, read_input, write_npy, write_pngs
from vae_jax.evaluation.trained_run import restore_to_write
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.modes import Mode, run_flags
from vae_jax.training.batches import to_batch
from vae_jax.training.run_directory import RunDirectory

_FOLDER = "reconstructions"
_FILE_NAMES = f"{_FOLDER}_names.npy"
_NAMES = (_FOLDER, f"{_FOLDER}.npy", _FILE_NAMES)


def reconstruct(
    source: RunDirectory,
    input: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Writes each image of the input, its reconstruction at its right, as a PNG file.

    A conditional model adds the same latents in every class: the style stays, the class changes.
    All reconstructions are in `reconstructions.npy` too, `<float32>[n, height, width, channels]`;
    the names of their files, row by row, in `reconstructions_names.npy`.

    Args:
      source: the run directory.
      input: a folder of image files, an `.npz` or an `.npy`.
      output: where files go; the run directory if None.

    Raises:
      UserError: there is no run, or the input cannot be read.
    """
    run = restore_to_write(source, output, _NAMES, input)
    split = join(read_input(input, run)[0])
    for replica in run.replicas:
        data = to_batch(split)
        images = generation.reconstruct(replica.model, replica.params, data)
        columns = [split.images / np.float32(MAX_PIXEL), images]
        columns += generation.reconstruct_in_every_class(replica.model, replica.params, data)
        write_pngs(replica.folder / _FOLDER, np.concatenate(columns, axis=2), split.names)
        path = replica.folder / f"{_FOLDER}.npy"
        write_npy(path, images)
        if split.names is None:
            (replica.folder / _FILE_NAMES).unlink(missing_ok=True)  # of another input
        else:
            write_npy(replica.folder / _FILE_NAMES, split.names)
        print(f"wrote {len(images)} PNG files to {replica.folder / _FOLDER}, and {path}")


MODE = Mode(reconstruct, flags=run_flags(has_input=True))
