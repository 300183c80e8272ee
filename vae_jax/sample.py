"""Mode `sample`: images from random latent vectors."""

import io
from pathlib import Path

import ml_collections
import numpy as np

from vae_jax.evaluation.summary import save_samples
from vae_jax.evaluation.trained_run import open_best
from vae_jax.training import run_directory


def sample(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Mode `sample`: a grid of 100 images from random latents, and the images as `.npy`."""
    for replica in open_best(config, workdir).replicas:
        buffer = io.BytesIO()
        np.save(buffer, save_samples(replica))
        path = replica.folder / "samples.npy"
        run_directory.write_atomically(path, buffer.getvalue())
        print(f"wrote {replica.figures / 'samples.png'} and {path}")
