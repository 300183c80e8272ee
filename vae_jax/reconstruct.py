"""Mode `reconstruct`: images beside what the model makes of them."""

import os

import ml_collections
import numpy as np

from vae_jax.evaluation import generation
from vae_jax.evaluation.input_images import join, read_input, write_npy, write_pngs
from vae_jax.evaluation.trained_run import restore_to_write
from vae_jax.model.likelihoods import MAX_PIXEL

_FOLDER = "reconstructions"


def reconstruct(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    input: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Writes each image of the input, its reconstruction at its right, as a PNG file.

    And all reconstructions as `reconstructions.npy`, `<float32>[n, height, width, channels]`.

    Args:
      config: the run's.
      workdir: the run directory.
      input: a folder of image files, an `.npz` or an `.npy`.
      output: where files go; the run directory if None.

    Raises:
      UserError: there is no run, or the input cannot be read.
    """
    run = restore_to_write(config, workdir, output)
    split = join(read_input(input, config, run)[0])
    for replica in run.replicas:
        images = generation.reconstruct(replica.model, replica.params, split.images)
        pairs = np.concatenate([split.images / np.float32(MAX_PIXEL), images], axis=2)
        write_pngs(replica.folder / _FOLDER, pairs, split.names)
        path = replica.folder / f"{_FOLDER}.npy"
        write_npy(path, images)
        print(f"wrote {len(images)} PNG files to {replica.folder / _FOLDER}, and {path}")
