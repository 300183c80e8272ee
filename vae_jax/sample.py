"""Mode `sample`: images from random latent vectors."""

import io
import os

import ml_collections
import numpy as np

from vae_jax.evaluation.summary import save_samples
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.runtime.files import write_atomically


def sample(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """Writes a grid of 100 images from random latents, and the images as `.npy`.

    Raises:
      UserError: there is no run to sample from.
    """
    for replica in restore_best(config, workdir).replicas:
        buffer = io.BytesIO()
        np.save(buffer, save_samples(replica, config.sample.pixels))
        path = replica.folder / "samples.npy"
        write_atomically(path, buffer.getvalue())
        print(f"wrote {replica.plots / 'samples.png'} and {path}")
