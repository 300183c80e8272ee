"""Mode `sample`: images from random latent vectors."""

import dataclasses

from absl import flags
from tqdm import tqdm

from vae_jax.evaluation import generation
from vae_jax.evaluation.image_output import npy_file, png_writer
from vae_jax.evaluation.summary import save_samples
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.model.structs import Batch
from vae_jax.modes import Mode, run_flags, run_mode


@run_mode("samples", "samples.npy", "plots")
def sample(
    run: TrainedRun, num: int = 100, seed: int | None = None, label: str | None = None
) -> None:
    """Writes images from random latents: a grid of at most 100, `.npy`, and PNG files.

    Raises:
      UserError: the run has no class with this label.
    """
    index = None if label is None else run.source.label_index("--label", label)
    pixels = run.config.sample.pixels
    for replica in run.replicas:
        if seed is not None:
            replica = dataclasses.replace(replica, seed=seed)
        save_samples(replica, num, index, pixels)
        trained, root_key = replica.model_and_params, replica.root_key
        data = Batch(labels=generation.spread_labels(num, replica.model.num_classes, index))
        latents = generation.draw_latents(*trained, root_key, num, data=data)
        path, folder = replica.folder / "samples.npy", replica.folder / "samples"
        write_pngs = png_writer(folder, num)
        bar = tqdm(total=num, unit=" images", delay=1, disable=None)
        with npy_file(path, num) as write_rows, bar:
            pixel_key = root_key if pixels else None
            for images in generation.iterate_images(*trained, latents, data, pixel_key):
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
