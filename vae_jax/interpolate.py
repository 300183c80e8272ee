"""Mode `interpolate`: from one test image to another, through the latent space."""

from pathlib import Path

import ml_collections

from vae_jax import datasets
from vae_jax.evaluation.summary import save_interpolation
from vae_jax.evaluation.trained_run import open_best


def interpolate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Mode `interpolate`: rows from one test digit to another of a different class."""
    run = open_best(config, workdir)
    test = datasets.load(**config.data).test
    for replica in run.replicas:
        save_interpolation(replica, test)
        print(f"wrote {replica.figures / 'interpolation.png'}")
