"""Mode `interpolate`: from one test image to another, through the latent space."""

import os

import ml_collections

from vae_jax import datasets
from vae_jax.evaluation.summary import save_interpolation
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.training import run_directory


def interpolate(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """Plots rows from one test image to another of a different class, or a distant one.

    Raises:
      UserError: there is no run, or its data cannot be had, or are not the same any more.
    """
    run = restore_best(config, workdir)
    dataset = datasets.load(**config.data)
    run_directory.check_same_data(run.workdir, dataset.sha256)
    for replica in run.replicas:
        save_interpolation(replica, dataset.test)
        print(f"wrote {replica.plots / 'interpolation.png'}")
