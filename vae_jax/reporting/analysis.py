"""What is measured of a trained model beyond its loss, and kept beside its summary."""

import functools
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from vae_jax import datasets
from vae_jax.evaluation import (
    digit_classifier,
    generation,
    latent_statistics,
    plots,
    sample_quality,
)
from vae_jax.evaluation.sample_quality import Reference
from vae_jax.evaluation.trained_run import Replica, open_best
from vae_jax.training import run_directory, steps

FILE_NAME = "analysis.json"
# Of what is measured and how: an analysis of another version is made anew.
_VERSION = 1
_DIGIT_DATASETS = ("mnist", "mnist_5k")
_NUM_MAPPED = 2_000
_NUM_PATHS = 500
_NUM_PATH_STEPS = 11
_MANIFOLD_STEPS = 20


def held(folder: Path, best_step: int) -> dict[str, Any] | None:
    """The analysis of that step which a replica's folder holds; None where there is none."""
    path = folder / FILE_NAME
    found = run_directory.read_json(path) if path.exists() else None
    same = isinstance(found, dict) and (found.get("version"), found.get("best_step"))
    return found if same == (_VERSION, best_step) else None


def _ink(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(steps.MAX_PIXEL)


@functools.lru_cache(maxsize=1)
def _measured_data(
    name: str, data_dir: str | None, manual_dir: str | None, validation_size: int
) -> tuple[Reference, dict[str, Any]]:
    """The reference for samples, and the measures of real training images against it.

    As many training images as there are test images take the samples' place: no generator can
    be expected to do better. The others alone are then what they might be copies of.
    """
    dataset = datasets.load(name, data_dir, manual_dir, validation_size)
    params = digit_classifier.load_weights()
    train, test = _ink(dataset.train.images), _ink(dataset.test.images)
    reference = sample_quality.make_reference(params, train, test)
    others = sample_quality.make_reference(params, train[len(test) :], test)
    return reference, sample_quality.measure(others, train[: len(test)])


def _latent_measures(replica: Replica, dataset: datasets.Dataset) -> dict[str, Any]:
    """Measures of the test images' posteriors; draws the map, and the manifold if it is one."""
    params = replica.state.params
    train, _ = generation.encode(replica.model, params, dataset.train.images)
    mean, log_var = generation.encode(replica.model, params, dataset.test.images)
    shown, labels = mean[:_NUM_MAPPED], dataset.test.labels[:_NUM_MAPPED]
    maps = {"PCA": latent_statistics.pca_map(shown), "t-SNE": latent_statistics.tsne_map(shown)}
    plots.save_latent_map(replica.figures / "latent_map.png", maps, labels)
    if mean.shape[1] == 2:
        grid = generation.manifold(replica.model, params, _MANIFOLD_STEPS)
        title = "The latent plane, at quantiles of the prior"
        plots.save_image_grid(replica.figures / "manifold.png", grid, title)
    probe = latent_statistics.linear_probe(train, dataset.train.labels, mean, dataset.test.labels)
    return latent_statistics.posterior_measures(mean, log_var) | {"probe_accuracy": probe}


def _reconstruction_measures(
    replica: Replica, test: datasets.Split, reference: Reference | None
) -> dict[str, Any]:
    """Measures of the test images' reconstructions from the posterior means."""
    originals = _ink(test.images)
    images = generation.reconstruct(replica.model, replica.state.params, test.images)
    measures = {
        "mean_squared_error": float(((images - originals) ** 2).mean(dtype=np.float64)),
        "sharpness": sample_quality.sharpness(images, originals),
    }
    if reference:
        named = digit_classifier.classify(reference.classifier_params, images).labels
        measures["classifier_accuracy"] = float((named == test.labels).mean())
    return measures


def _interpolation_measures(
    replica: Replica, test: datasets.Split, reference: Reference | None
) -> dict[str, Any]:
    """Measures of lines between test images, the first to the second and so on."""
    images = test.images[: 2 * _NUM_PATHS]
    first, last = images[0::2], images[1::2]
    paths = generation.interpolate(
        replica.model, replica.state.params, first[: len(last)], last, _NUM_PATH_STEPS
    )
    measures = {"largest_step": sample_quality.largest_step(paths)}
    if reference:
        inside = paths[:, 1:-1].reshape(-1, *paths.shape[2:])
        predictions = digit_classifier.classify(reference.classifier_params, inside)
        measures["mean_confidence"] = float(predictions.confidence.mean(dtype=np.float64))
    return measures


def _analyse(
    replica: Replica, dataset: datasets.Dataset, config: ml_collections.ConfigDict
) -> dict[str, Any]:
    reference, ceiling = None, None
    if config.data.name in _DIGIT_DATASETS:
        data = config.data
        reference, ceiling = _measured_data(
            data.name, data.data_dir, data.manual_dir, data.validation_size
        )
    measures = {
        "version": _VERSION,
        "best_step": int(replica.state.step),
        "latents": _latent_measures(replica, dataset),
        "reconstructions": _reconstruction_measures(replica, dataset.test, reference),
        "interpolations": _interpolation_measures(replica, dataset.test, reference),
    }
    if reference:
        samples = generation.sample_many(
            replica.model,
            replica.state.params,
            replica.state.root_key,
            len(dataset.test),
        )
        measures["samples"] = sample_quality.measure(reference, samples)
        measures["ceiling"] = ceiling
    return measures


def analyse_run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes `analysis.json` and its figures for each replica of a run that is complete.

    Samples are measured where the data are digits: the classifier knows nothing else.

    Raises:
      UserError: the run, its data or the classifier's weights cannot be read.
    """
    run = open_best(config, workdir)
    dataset = datasets.load(**config.data)
    run_directory.check_same_data(workdir, dataset.sha256)
    for replica in run.replicas:
        measures = _analyse(replica, dataset, config)
        run_directory.write_json(replica.folder / FILE_NAME, measures)
