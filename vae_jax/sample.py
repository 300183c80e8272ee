"""Mode `sample`: images from random latent vectors."""

import sys

from absl import flags
from tqdm import tqdm

from vae_jax.evaluation.input_images import npy_file, png_files
from vae_jax.evaluation.summary import NUM_SAMPLES, save_samples
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.modes import Mode, run_flags, run_mode


@run_mode("samples", "samples.npy", "plots")
def sample(
    run: TrainedRun, num: int = NUM_SAMPLES, seed: int | None = None, label: str | None = None
) -> None:
    """Writes images from random latents: a grid of the first 100, `.npy`, and PNG files.

    Raises:
      UserError: the run has no class with this label.
    """
    index = None if label is None else run.source.label_index("--label", label)
    for replica in run.replicas:
        path, folder = replica.folder / "samples.npy", replica.folder / "samples"
        bar = tqdm(total=num, unit=" images", delay=1, disable=not sys.stderr.isatty())
        with npy_file(path, num) as write_rows, png_files(folder, num) as write_pngs, bar:
            pixels = run.config.sample.pixels
            for images in save_samples(replica, pixels, num, seed, index):
                write_rows(images)
                write_pngs(images)
                bar.update(len(images))
        plot = replica.plots / "samples.png"
        print(f"wrote {plot}, {path} and {num} PNG files to {folder}")


_FLAGS = run_flags()
flags.DEFINE_integer("num", None, "How many images.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("seed", None, "Decides the images.", 0, 2**32 - 1, flag_values=_FLAGS)
flags.DEFINE_string("label", None, "The class to draw from, by its name.", flag_values=_FLAGS)
MODE = Mode(sample, flags=_FLAGS)
