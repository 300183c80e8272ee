"""Mode `sample`: images from random latent vectors."""

import os

import ml_collections

from vae_jax.evaluation.input_images import write_npy, write_pngs
from vae_jax.evaluation.summary import NUM_SAMPLES, save_samples
from vae_jax.evaluation.trained_run import restore_to_write


def sample(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    num_images: int = NUM_SAMPLES,
    seed: int | None = None,
) -> None:
    """Writes images from random latents: a grid of the first 100, `.npy`, and PNG files.

    Args:
      config: the run's.
      workdir: the run directory.
      output: where files go; the run directory if None.
      num_images: how many.
      seed: decides them; the replica's own if None.

    Raises:
      UserError: there is no run to sample from.
    """
    for replica in restore_to_write(config, workdir, output).replicas:
        images = save_samples(replica, config.sample.pixels, num_images, seed)
        path, folder = replica.folder / "samples.npy", replica.folder / "samples"
        write_npy(path, images)
        write_pngs(folder, images)
        plot = replica.plots / "samples.png"
        print(f"wrote {plot}, {path} and {num_images} PNG files to {folder}")
