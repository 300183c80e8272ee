"""Mode `interpolate`: from one image to another, through the latent space."""

import os

from vae_jax.evaluation.input_images import join, read_input
from vae_jax.evaluation.summary import save_interpolation
from vae_jax.evaluation.trained_run import load_data, restore_to_write
from vae_jax.modes import Mode, run_flags
from vae_jax.runtime.errors import UserError
from vae_jax.training.run_directory import RunDirectory


def interpolate(
    source: RunDirectory,
    input: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Plots rows from one image to another of a different class, or a distant one.

    Args:
      source: the run directory.
      input: a folder of image files, an `.npz` or an `.npy`, at least two images; the run's own
        test images if None.
      output: where the plot goes; the run directory if None.

    Raises:
      UserError: there is no run, or its data or the input cannot be had.
    """
    run = restore_to_write(source, output, ["plots"], input)
    if input is None:
        dataset = load_data(run)
        images = dataset.test
    else:
        images = join(read_input(input, run)[0])
        if len(images) < 2:
            raise UserError(f"--input={input}: holds one image, must hold at least two")
    for replica in run.replicas:
        save_interpolation(replica, images)
        print(f"wrote {replica.plots / 'interpolation.png'}")


MODE = Mode(interpolate, flags=run_flags(has_input=True))
