"""Mode `interpolate`: from one test image to another, through the latent space."""

from pathlib import Path

import ml_collections

from vae_jax import datasets
from vae_jax.evaluation.summary import save_interpolation
from vae_jax.evaluation.trained_run import restore_best


def interpolate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Plots rows from one test image to another of a different class.

    Raises:
      UserError: there is no run, or its data cannot be had.
    """
    run = restore_best(config, workdir)
    test = datasets.load(**config.data).test
    for replica in run.replicas:
        save_interpolation(replica, test)
        print(f"wrote {replica.plots / 'interpolation.png'}")
