"""Trained runs, as the benchmarks read them."""

from pathlib import Path

import numpy as np
from common import ROOT  # makes the project's modules importable  # noqa: F401

from vae_jax import datasets
from vae_jax.evaluation.trained_run import Replica, load_data, restore_best
from vae_jax.training.run_directory import RunDirectory


def restore(
    workdir: Path, manual_dir: str | None = None, data_dir: str | None = None
) -> tuple[Replica, datasets.Dataset]:
    """Restores a run of one seed and its images.

    Args:
      workdir: the run directory.
      manual_dir: where the four files of MNIST lie, if not where the run had them.
      data_dir: where prepared data lie, if not where the run had them.
    """
    places = {"data.manual_dir": manual_dir, "data.data_dir": data_dir}
    overrides = {field: place for field, place in places.items() if place}
    trained = restore_best(RunDirectory.open(workdir).with_overrides(overrides))
    [replica] = trained.replicas
    return replica, load_data(trained)


def mean_with_error(values: np.ndarray) -> tuple[float, float]:
    """Returns the mean of one value an image and its standard error over the images."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def paired_gain(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Compares two models on the same images.

    Args:
      first: `<float>[n]`, log p(x) of each image.
      second: the same images', of the other model.

    Returns:
      Mean of second - first, nats per image, and its standard error over the images.
    """
    return mean_with_error(second - first)
