"""Whose the overfitting is: the encoder's, or the decoder's and the prior's.

  python benchmarks/overfitting.py runs/flagship

The loss of images that a binarized run was trained on and of those it was not, validation images,
pixels drawn anew for both. With many importance samples the estimate of -log p(x) no longer depends
on the encoder; what the ELBO loses beyond it, the gap, is the encoder's (Zhang et al. 2022,
arXiv:2205.11640). With the defaults about eleven minutes of one core for the flagship.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from common import describe_machine, print_table
from trained import mean_with_error, restore

from vae_jax.datasets.binarization import binarize_for_evaluation
from vae_jax.evaluation import log_likelihood
from vae_jax.training.batches import to_batch

_SPLITS = ("train", "validation")


def main() -> None:
    """Measures both splits and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=2000, help="of each split")
    parser.add_argument("--samples", type=int, default=500, help="of each image")
    parser.add_argument("--manual_dir", help="where the four files of MNIST lie")
    parser.add_argument("--data_dir", help="where prepared data lie")
    arguments = parser.parse_args()
    replica, dataset = restore(arguments.run, arguments.manual_dir, arguments.data_dir)
    measured = {}
    for name in _SPLITS:
        data = to_batch(getattr(dataset, name))[: arguments.images]
        if name == "train":  # the others' pixels are drawn when they are loaded
            drawn = binarize_for_evaluation(data.images, "validation")
            data = dataclasses.replace(data, images=drawn)
        estimates = log_likelihood.estimate(
            replica.model, replica.params, replica.root_key, data, arguments.samples
        )
        nll, loss = -estimates.log_likelihood, -estimates.elbo
        measured[name] = {"-log p(x)": nll, "gap": loss - nll, "-ELBO": loss}
    print(f"{describe_machine()}; {len(data)} images a split, k = {arguments.samples}")
    rows = []
    for quantity in measured["train"]:
        means, errors = zip(
            *(mean_with_error(measured[name][quantity]) for name in _SPLITS), strict=True
        )
        cells = [f"{mean:.2f} ± {error:.2f}" for mean, error in zip(means, errors, strict=True)]
        difference = f"{means[1] - means[0]:+.2f} ± {np.hypot(*errors):.2f}"
        rows.append((quantity, *cells, difference))
    print_table(("", *_SPLITS, "difference"), rows)


if __name__ == "__main__":
    main()
