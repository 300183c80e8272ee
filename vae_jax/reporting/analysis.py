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
from vae_jax.evaluation.measuring import Measurer
from vae_jax.evaluation.sample_quality import Reference
from vae_jax.evaluation.trained_run import Replica, load_data, restore_best
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.model.rng_streams import Stream
from vae_jax.model.vae import Params
from vae_jax.reporting.runs import Run
from vae_jax.runtime.errors import describe
from vae_jax.runtime.files import write_record
from vae_jax.training.batches import to_batch

_NUM_MAPPED = 2_000
_NUM_PATHS = 500
_NUM_PATH_STEPS = 11
_MANIFOLD_STEPS = 20


def _intensities(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(MAX_PIXEL)


@functools.lru_cache(maxsize=1)
def _reference_and_ceiling(**data: Any) -> tuple[Reference, SampleMeasures | None]:
    """Makes the reference for samples, and measures real training images against it.

    The arguments are those of `datasets.load`. As many training images as there are test images
    take the samples' place: no generator can be expected to do better. The others alone are then
    what they might be copies of; where there are none, nothing is measured.
    """
    dataset = datasets.load(**data)
    is_digits = datasets.SOURCES[dataset.name].is_digits
    params = digit_classifier.load_weights() if is_digits else None
    train, test = _intensities(dataset.train.images), _intensities(dataset.test.images)
    reference = sample_quality.make_reference(params, train, test)
    if len(train) <= len(test):
        return reference, None
    others = sample_quality.make_reference(params, train[len(test) :], test)
    return reference, sample_quality.measure(others, train[: len(test)])


def _measure_latents(replica: Replica, dataset: datasets.Dataset) -> LatentMeasures:
    """Measures the test images' posteriors; plots the map, and the manifold if it is one."""
    train = generation.encode(replica.model, replica.params, to_batch(dataset.train)).mean
    posterior = generation.encode(replica.model, replica.params, to_batch(dataset.test))
    mean = posterior.mean
    train_labels, labels = dataset.train.labels, dataset.test.labels
    shown, measured, path = mean[:_NUM_MAPPED], Measurer(), replica.plots / "latent_map.png"
    maps = {
        "PCA": measured("PCA map", latent_statistics.pca_map, shown),
        "t-SNE": measured("t-SNE map", latent_statistics.tsne_map, shown),
    }
    if found := {title: points for title, points in maps.items() if points is not None}:
        shown_labels = None if labels is None else labels[:_NUM_MAPPED]
        plots.save_latent_map(path, found, shown_labels, dataset.class_names)
    else:
        path.unlink(missing_ok=True)  # one of another epoch
    if mean.shape[1] == 2:
        grid = generation.manifold(replica.model, replica.params, _MANIFOLD_STEPS)
        title = "The latent plane, at quantiles of the prior"
        plots.save_image_grid(replica.plots / "manifold.png", replica.shown(grid), title)

    def kl(*_: np.ndarray) -> list[float]:
        return latent_statistics.kl_per_dimension(replica.model.prior, posterior)

    probe, accuracy = latent_statistics.linear_probe, None
    if train_labels is not None and labels is not None:
        accuracy = measured("probe_accuracy", probe, train, train_labels, mean, labels)
    return LatentMeasures(
        active_units=measured("active_units", latent_statistics.active_units, mean),
        kl_per_dimension=measured("kl_per_dimension", kl, *posterior.to_arrays().values()),
        probe_accuracy=accuracy,
        not_measured=measured.not_measured,
    )


def _mean_squared_error(images: np.ndarray, originals: np.ndarray) -> float:
    return float(((images - originals) ** 2).mean(dtype=np.float64))


def _accuracy(params: Params, labels: np.ndarray, images: np.ndarray) -> float:
    return float((digit_classifier.classify(params, images).labels == labels).mean())


def _mean_confidence(params: Params, paths: np.ndarray) -> float:
    """Averages the classifier's confidence between the ends of interpolations."""
    inside = paths[:, 1:-1].reshape(-1, *paths.shape[2:])
    return float(digit_classifier.classify(params, inside).confidence.mean(dtype=np.float64))


def _measure_reconstructions(
    replica: Replica, test: datasets.Split, reference: Reference
) -> ReconstructionMeasures:
    """Measures the test images' reconstructions from the posterior means."""
    originals = _intensities(test.images)
    images = generation.reconstruct(replica.model, replica.params, to_batch(test))
    measured, accuracy = Measurer(), None
    if reference.classifier_params is not None and test.labels is not None:
        function = functools.partial(_accuracy, reference.classifier_params, test.labels)
        accuracy = measured("classifier_accuracy", function, images)
    return ReconstructionMeasures(
        mean_squared_error=measured("mean_squared_error", _mean_squared_error, images, originals),
        sharpness=measured("sharpness", sample_quality.sharpness, images, originals),
        classifier_accuracy=accuracy,
        not_measured=measured.not_measured,
    )


def _measure_interpolations(
    replica: Replica, test: datasets.Split, reference: Reference
) -> InterpolationMeasures:
    """Measures lines between test images, the first to the second and so on."""
    data = to_batch(test[: 2 * _NUM_PATHS])
    first, last = data[0::2], data[1::2]
    if not len(last):
        reason = {"max_mean_step_ratio": "there is a single test image"}
        return InterpolationMeasures(None, None, reason)
    paths = generation.interpolate(
        replica.model, replica.params, first[: len(last)], last, _NUM_PATH_STEPS
    )
    measured, confidence = Measurer(), None
    if reference.classifier_params is not None:
        function = functools.partial(_mean_confidence, reference.classifier_params)
        confidence = measured("mean_confidence", function, paths)
    return InterpolationMeasures(
        max_mean_step_ratio=measured(
            "max_mean_step_ratio", sample_quality.max_mean_step_ratio, paths
        ),
        mean_confidence=confidence,
        not_measured=measured.not_measured,
    )


def _analyze(
    replica: Replica, dataset: datasets.Dataset, config: ml_collections.ConfigDict
) -> Analysis:
    """Measures one model."""
    # Samples are means of gray pixels, and are measured against gray images.
    reference, ceiling = _reference_and_ceiling(**{**config.data, "binarization": "none"})
    # Other samples than those of the plot.
    images = generation.sample(
        replica.model,
        replica.params,
        replica.root_key,
        len(dataset.test),
        Stream.MEASURED_SAMPLES,
        to_batch(dataset.test),
    )
    samples, reasons = None, {}
    if np.isfinite(images).all():
        samples = sample_quality.measure(reference, images)
    else:
        reasons["samples"] = "they are not finite"
    if ceiling is None:
        reasons["ceiling"] = "there are no more training images than test images"
    return Analysis(
        version=ANALYSIS_VERSION,
        best_step=replica.step,
        latents=_measure_latents(replica, dataset),
        reconstructions=_measure_reconstructions(replica, dataset.test, reference),
        interpolations=_measure_interpolations(replica, dataset.test, reference),
        samples=samples,
        ceiling=ceiling,
        not_measured=reasons or None,
    )


def analyze_run(run: Run, data_paths: Mapping[str, Any]) -> Run:
    """Writes `analysis.json` and its plots for each replica of a complete run; adds them to it.

    Args:
      run: the run.
      data_paths: where the data lie, by dotted path, where not at the place the run names.

    Raises:
      UserError: the run, its data or the classifier's weights cannot be read.
    """
    trained = restore_best(run.directory.with_overrides(data_paths))
    dataset = load_data(trained)
    replicas, models = {replica.seed: replica for replica in trained.replicas}, []
    for model in run.models:
        replica = replicas[model.seed]
        analysis = _analyze(replica, dataset, trained.config)
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
        except Exception as error:  # whatever it is, the others are reported
            problems[workdir] = f"not analyzed: {describe(error)}"
    return analyzed, problems
