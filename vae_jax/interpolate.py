"""Mode `interpolate`: from one image to another, through the latent space."""

import os

from vae_jax.evaluation.input_images import join, read_splits
from vae_jax.evaluation.summary import save_interpolation
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.runtime.errors import UserError


@run_mode("plots")
def interpolate(run: TrainedRun, input: str | os.PathLike[str] | None = None) -> None:
    """Plots rows from one image to another of a different class, or the next one.

    Without an input the images are the run's test images.

    Raises:
      UserError: the input has a single image.
    """
    images = join(read_splits(run, input)[0])
    if len(images) < 2:
        raise UserError(f"--input={input}: holds one image, must hold at least two")
    for replica in run.replicas:
        save_interpolation(replica, images)
        print(f"wrote {replica.plots / 'interpolation.png'}")


MODE = Mode(interpolate, flags=run_flags(has_input=True))
