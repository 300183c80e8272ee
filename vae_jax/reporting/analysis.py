"""What a report measures of a trained model beyond its loss, and keeps beside its summary."""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from tqdm import tqdm

from vae_jax import datasets
from vae_jax.evaluation import (
    digit_classifier,
    generation,
    latent_statistics,
    plots,
    sample_quality,
)
from vae_jax.evaluation.measures import (
    ANALYSIS_NAME,
    ANALYSIS_VERSION,
    Analysis,
    InterpolationMeasures,
    LatentMeasures,
    ReconstructionMeasures,
    SampleMeasures,
)
from vae_jax.evaluation.sample_quality import Reference
from vae_jax.evaluation.trained_run import Replica, restore_best
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.reporting.runs import Run
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_record
from vae_jax.training import run_directory

_NUM_MAPPED = 2_000
_NUM_PATHS = 500
_NUM_PATH_STEPS = 11
_MANIFOLD_STEPS = 20


def _intensities(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(MAX_PIXEL)


@functools.lru_cache(maxsize=1)
def _reference_and_ceiling(**data: Any) -> tuple[Reference, SampleMeasures]:
    """Makes the reference for samples, and measures real training images against it.

    The arguments are those of `datasets.load`. As many training images as there are test images
    take the samples' place: no generator can be expected to do better. The others alone are then
    what they might be copies of.
    """
    dataset = datasets.load(**data)
    is_digits = dataset.name in datasets.DIGIT_NAMES
    params = digit_classifier.load_weights() if is_digits else None
    train, test = _intensities(dataset.train.images), _intensities(dataset.test.images)
    reference = sample_quality.make_reference(params, train, test)
    others = sample_quality.make_reference(params, train[len(test) :], test)
    return reference, sample_quality.measure(others, train[: len(test)])


def _measure_latents(replica: Replica, dataset: datasets.Dataset) -> LatentMeasures:
    """Measures the test images' posteriors; plots the map, and the manifold if it is one."""
    train, _ = generation.encode(replica.model, replica.params, dataset.train.images)
    mean, log_var = generation.encode(replica.model, replica.params, dataset.test.images)
    train_labels, labels = dataset.train.labels, dataset.test.labels
    shown = mean[:_NUM_MAPPED]
    maps = {
        "PCA": latent_statistics.pca_map(shown),
        "t-SNE": latent_statistics.tsne_map(shown),
    }
    shown_labels = None if labels is None else labels[:_NUM_MAPPED]
    plots.save_latent_map(replica.plots / "latent_map.png", maps, shown_labels, dataset.class_names)
    if mean.shape[1] == 2:
        grid = generation.manifold(replica.model, replica.params, _MANIFOLD_STEPS)
        title = "The latent plane, at quantiles of the prior"
        plots.save_image_grid(replica.plots / "manifold.png", replica.shown(grid), title)
    kl = latent_statistics.kl_per_dimension(replica.model.prior, mean, log_var)
    accuracy = None
    if train_labels is not None and labels is not None:
        accuracy = latent_statistics.linear_probe(train, train_labels, mean, labels)
    return LatentMeasures(
        active_units=latent_statistics.active_units(mean),
        kl_per_dimension=kl.tolist(),
        probe_accuracy=accuracy,
    )


def _measure_reconstructions(
    replica: Replica, test: datasets.Split, reference: Reference
) -> ReconstructionMeasures:
    """Measures the test images' reconstructions from the posterior means."""
    originals = _intensities(test.images)
    images = generation.reconstruct(replica.model, replica.params, test.images)
    accuracy = None
    if reference.classifier_params is not None:
        predicted = digit_classifier.classify(reference.classifier_params, images).labels
        accuracy = float((predicted == test.labels).mean())
    return ReconstructionMeasures(
        mean_squared_error=float(((images - originals) ** 2).mean(dtype=np.float64)),
        sharpness=sample_quality.sharpness(images, originals),
        classifier_accuracy=accuracy,
    )


def _measure_interpolations(
    replica: Replica, test: datasets.Split, reference: Reference
) -> InterpolationMeasures:
    """Measures lines between test images, the first to the second and so on."""
    images = test.images[: 2 * _NUM_PATHS]
    first, last = images[0::2], images[1::2]
    paths = generation.interpolate(
        replica.model, replica.params, first[: len(last)], last, _NUM_PATH_STEPS
    )
    confidence = None
    if reference.classifier_params is not None:
        inside = paths[:, 1:-1].reshape(-1, *paths.shape[2:])
        predictions = digit_classifier.classify(reference.classifier_params, inside)
        confidence = float(predictions.confidence.mean(dtype=np.float64))
    ratio = sample_quality.max_mean_step_ratio(paths)
    return InterpolationMeasures(max_mean_step_ratio=ratio, mean_confidence=confidence)


def _analyze(
    replica: Replica, dataset: datasets.Dataset, config: ml_collections.ConfigDict
) -> Analysis:
    """Measures one model."""
    # Samples are means of gray pixels, and are measured against gray images.
    reference, ceiling = _reference_and_ceiling(**{**config.data, "binarization": "none"})
    images = generation.sample_for_metrics(
        replica.model, replica.params, replica.root_key, len(dataset.test)
    )
    return Analysis(
        version=ANALYSIS_VERSION,
        best_step=replica.step,
        latents=_measure_latents(replica, dataset),
        reconstructions=_measure_reconstructions(replica, dataset.test, reference),
        interpolations=_measure_interpolations(replica, dataset.test, reference),
        samples=sample_quality.measure(reference, images),
        ceiling=ceiling,
    )


def analyze_run(run: Run, data_paths: Mapping[str, Any]) -> Run:
    """Writes `analysis.json` and its plots for each replica of a complete run; adds them to it.

    Args:
      run: the run.
      data_paths: where the data lie, by dotted path, where not at the place the run names.

    Raises:
      UserError: the run, its data or the classifier's weights cannot be read.
    """
    config = run.config.copy_and_resolve_references()
    config.update_from_flattened_dict(data_paths)
    trained = restore_best(config, run.workdir)
    dataset = datasets.load(**config.data)
    run_directory.check_same_data(run.workdir, dataset.sha256)
    models = []
    for model, replica in zip(run.models, trained.replicas, strict=True):
        analysis = _analyze(replica, dataset, config)
        write_record(replica.folder / ANALYSIS_NAME, analysis)
        models.append(dataclasses.replace(model, analysis=analysis))
    return dataclasses.replace(run, models=models)


def analyze_missing(
    runs: Sequence[Run], data_paths: Mapping[str, Any]
) -> tuple[list[Run], dict[Path, str]]:
    """Analyzes the runs that are not yet.

    Args:
      runs: complete runs.
      data_paths: as for `analyze_run`.

    Returns:
      The runs, analyzed where that can be done, and what is with those where it cannot.
    """
    analyzed, problems = [*runs], {}
    missing = [i for i, run in enumerate(runs) if not all(m.analysis for m in run.models)]
    bar = tqdm(missing, desc="analyzing", unit=" runs", disable=not sys.stderr.isatty())
    for index in bar:
        workdir = runs[index].workdir
        if bar.disable:
            print(f"analyzing {workdir}", flush=True)
        try:
            analyzed[index] = analyze_run(runs[index], data_paths)
        except UserError as error:
            problems[workdir] = f"not analyzed: {error}"
    return analyzed, problems
