"""Mode `sample`: images from random latent vectors."""

import os

from absl import flags

from vae_jax.evaluation.input_images import write_npy, write_pngs
from vae_jax.evaluation.summary import NUM_SAMPLES, save_samples
from vae_jax.evaluation.trained_run import restore_to_write
from vae_jax.modes import Mode, run_flags
from vae_jax.training.run_directory import RunDirectory


def sample(
    source: RunDirectory,
    output: str | os.PathLike[str] | None = None,
    num: int = NUM_SAMPLES,
    seed: int | None = None,
    label: str | None = None,
) -> None:
    """Writes images from random latents: a grid of the first 100, `.npy`, and PNG files.

    Args:
      source: the run directory.
      output: where files go; the run directory if None.
      num: how many images.
      seed: decides them; the replica's own if None.
      label: the class to draw from, by its name; None for all classes of a conditional model, one
        after another.

    Raises:
      UserError: there is no run to sample from, or no such class.
    """
    index = None if label is None else source.label_index("--label", label)
    run = restore_to_write(source, output, ("samples", "samples.npy", "plots"))
    for replica in run.replicas:
        images = save_samples(replica, run.config.sample.pixels, num, seed, index)
        path, folder = replica.folder / "samples.npy", replica.folder / "samples"
        write_npy(path, images)
        write_pngs(folder, images)
        plot = replica.plots / "samples.png"
        print(f"wrote {plot}, {path} and {num} PNG files to {folder}")


_FLAGS = run_flags()
flags.DEFINE_integer("num", None, "How many images.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("seed", None, "Decides the images.", 0, 2**32 - 1, flag_values=_FLAGS)
flags.DEFINE_string("label", None, "The class to draw from, by its name.", flag_values=_FLAGS)
MODE = Mode(sample, flags=_FLAGS)
