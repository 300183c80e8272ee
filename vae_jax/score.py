"""Mode `score`: how likely each image is, as `scores.csv`."""

import csv
import io
import os
import sys

import numpy as np
from absl import flags

from vae_jax.evaluation import log_likelihood
from vae_jax.evaluation.input_images import join, read_splits
from vae_jax.evaluation.trained_run import TrainedRun
from vae_jax.model.likelihoods import count_gray
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_atomically
from vae_jax.training.batches import to_batch

_NAME = "scores.csv"


@run_mode(_NAME)
def score(
    run: TrainedRun, input: str | os.PathLike[str] | None = None, num_samples: int = 500
) -> None:
    """Writes the numbers of `TrainedVAE.score` with the run's seed, the least likely image first.

    Without an input the images are the run's test images. Of a Bernoulli on gray pixels, which is
    not a likelihood, log p(x) is the importance-weighted bound of the loss.

    Raises:
      UserError: the input has gray pixels, and the run's likelihood is of black and white ones.
    """
    splits, _ = read_splits(run, input)
    names: list[str] = []
    for name, split in splits.items():
        prefix = "" if name == "all" else f"{name}/"
        numbers = [f"{prefix}{row}" for row in range(len(split))]
        names += numbers if split.names is None else split.names.tolist()
    data = to_batch(join(splits))
    if run.config.data.binarization != "none" and (num_gray := count_gray(data.images)):
        raise UserError(
            f"--input has {num_gray} gray pixels, and the run was trained on black and white ones; "
            "make them 0 or 255"
        )
    indices = log_likelihood.indices_by_pixels(data.images)
    for replica in run.replicas:
        estimates = log_likelihood.estimate(
            *replica.model_and_params, replica.root_key, data, num_samples, indices=indices
        )
        scores, values = vars(estimates), estimates.log_likelihood
        order = np.argsort(values, kind="stable")
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(["name", *scores])
        for row in order:
            writer.writerow([names[row], *(f"{column[row]:.7g}" for column in scores.values())])
        path = replica.folder / _NAME
        write_atomically(path, content.getvalue())
        least = f"{names[order[0]]} (log p(x) {values[order[0]]:.2f})"
        print(f"wrote {path}: {len(names)} images, the least likely is {least}")
        if doubt := estimates.find_doubt(num_samples):
            print(f"warning: {replica.folder}: {doubt}", file=sys.stderr)


_FLAGS = run_flags(has_input=True)
flags.DEFINE_integer("num_samples", None, "Latent samples for each image.", 1, flag_values=_FLAGS)
MODE = Mode(score, flags=_FLAGS)
