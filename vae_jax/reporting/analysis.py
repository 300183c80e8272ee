"""Measures of a trained model beyond its loss, which a report stores beside its summary."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from vae_jax import datasets
from vae_jax.evaluation import digit_classifier, generation, latent_statistics, measures, plots
from vae_jax.evaluation import sample_quality as quality
from vae_jax.evaluation.measures import Measurer
from vae_jax.evaluation.trained_run import Replica, load_data, restore_best
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.model.rng_streams import Stream
from vae_jax.model.vae import Params
from vae_jax.reporting.runs import Group, Run
from vae_jax.runtime.errors import describe
from vae_jax.runtime.files import write_record
from vae_jax.training.batches import to_batch

_NUM_MAPPED = 2_000
_MAX_BYTES = 1 << 30  # of images as floats
_NUM_PATHS = 500
_NUM_PATH_STEPS = 11


def _spread(split: datasets.Split) -> datasets.Split:
    """Returns the split, or as many images, spread over all, as take a GiB as floats."""
    limit = _MAX_BYTES // (4 * math.prod(split.images.shape[1:]))
    if len(split) <= limit:
        return split
    print(f"measuring {limit} of {len(split)} images", flush=True)
    return split[np.linspace(0, len(split) - 1, limit).astype(np.int64)]


def _intensities(split: datasets.Split) -> np.ndarray:
    return np.asarray(split.images, np.float32) / np.float32(MAX_PIXEL)


@functools.lru_cache(maxsize=1)
def _reference_and_ceiling(**data: Any) -> tuple[quality.Reference, measures.SampleMeasures | None]:
    """Makes the reference for samples, and measures as many real training images against it.

    The arguments are those of `datasets.load`. No generator can be expected to do better than this
    ceiling; its copies are looked for in the other training images, and without any it is None.
    """
    dataset = datasets.load(**data)
    is_digits = datasets.SOURCES[dataset.name].is_digits
    params = digit_classifier.load_weights() if is_digits else None
    train, test = (_intensities(_spread(split)) for split in (dataset.train, dataset.test))
    reference = quality.make_reference(params, train, test)
    if len(train) <= len(test):
        return reference, None
    others = quality.make_reference(params, train[len(test) :], test)
    return reference, quality.measure(others, train[: len(test)])


def _save_latent_map(
    replica: Replica, dataset: datasets.Dataset, mean: np.ndarray, measured: Measurer
) -> None:
    """Plots the map of the test images' latents."""
    path, points, labels = replica.plots / "latent_map.png", mean[:_NUM_MAPPED], dataset.test.labels
    maps = {
        "PCA": measured("PCA map", latent_statistics.pca_map, points),
        "t-SNE": measured("t-SNE map", latent_statistics.tsne_map, points),
    }
    maps = {title: places for title, places in maps.items() if places is not None}
    path.unlink(missing_ok=True)  # that of another epoch
    if maps:
        labels = None if labels is None else labels[:_NUM_MAPPED]
        plots.save_latent_map(path, maps, labels, dataset.class_names)


def _measure_latents(replica: Replica, dataset: datasets.Dataset) -> measures.LatentMeasures:
    """Measures and plots the test images' posteriors."""
    train, test, measured = dataset.train, dataset.test, Measurer()
    posterior = generation.encode(replica.model, replica.params, to_batch(test))
    mean, accuracy = posterior.mean, None
    _save_latent_map(replica, dataset, mean, measured)

    if train.labels is not None and test.labels is not None:
        train_mean = generation.encode(replica.model, replica.params, to_batch(train)).mean
        inputs = (train_mean, train.labels, mean, test.labels)
        accuracy = measured("probe_accuracy", latent_statistics.linear_probe, *inputs)
    latents = latent_statistics.posterior_measures(replica.model.prior, posterior)
    reasons = {**measured.not_measured, **(latents.not_measured or {})}
    return dataclasses.replace(latents, probe_accuracy=accuracy, not_measured=reasons)


def _measure_reconstructions(
    replica: Replica, test: datasets.Split, params: Params | None
) -> measures.ReconstructionMeasures:
    """Measures the test images' reconstructions; `params` are the digit classifier's."""
    test = _spread(test)
    originals, labels = _intensities(test), test.labels
    images = generation.reconstruct(replica.model, replica.params, to_batch(test))
    measured, accuracy = Measurer(), None

    def mean_squared_error(images: np.ndarray, originals: np.ndarray) -> float:
        return float(((images - originals) ** 2).mean(dtype=np.float64))

    def classifier_accuracy(images: np.ndarray) -> float:
        return float((digit_classifier.classify(params or {}, images).labels == labels).mean())

    if params is not None and labels is not None:
        accuracy = measured("classifier_accuracy", classifier_accuracy, images)
    return measures.ReconstructionMeasures(
        mean_squared_error=measured("mean_squared_error", mean_squared_error, images, originals),
        sharpness=measured("sharpness", quality.sharpness, images, originals),
        classifier_accuracy=accuracy,
        not_measured=measured.not_measured,
    )


def _measure_interpolations(
    replica: Replica, test: datasets.Split
) -> measures.InterpolationMeasures:
    """Measures lines between test images, the first to the second and so on."""
    data = to_batch(test[: 2 * _NUM_PATHS])
    first, last = data[0::2], data[1::2]
    if not len(last):
        reason = {"max_mean_step_ratio": "there is a single test image"}
        return measures.InterpolationMeasures(None, not_measured=reason)
    paths = generation.interpolate(
        replica.model, replica.params, first[: len(last)], last, _NUM_PATH_STEPS
    )
    measured = Measurer()
    ratio = measured("max_mean_step_ratio", quality.max_mean_step_ratio, paths)
    return measures.InterpolationMeasures(ratio, not_measured=measured.not_measured)


def _analyze(
    replica: Replica, dataset: datasets.Dataset, config: ml_collections.ConfigDict
) -> measures.Analysis:
    """Measures one model."""
    # Samples are means of gray pixels, and are measured against gray images.
    reference, ceiling = _reference_and_ceiling(**{**config.data, "binarization": "none"})
    test = dataset.test
    images = generation.sample(
        replica.model,
        replica.params,
        replica.root_key,
        len(test),
        Stream.MEASURED_SAMPLES,  # not the samples of the plot
        to_batch(test),
    )
    samples, reasons = None, {}
    if np.isfinite(images).all():
        samples = quality.measure(reference, images)
    else:
        reasons["samples"] = "they are not finite"
    if ceiling is None:
        reasons["ceiling"] = "there are no more training images than test images"
    return measures.Analysis(
        version=measures.ANALYSIS_VERSION,
        best_step=replica.step,
        latents=_measure_latents(replica, dataset),
        reconstructions=_measure_reconstructions(replica, test, reference.classifier_params),
        interpolations=_measure_interpolations(replica, test),
        samples=samples,
        ceiling=ceiling,
        not_measured=reasons or None,
    )


def _analyze_run(run: Run, data_paths: Mapping[str, Any]) -> None:
    """Measures each replica of a run; writes `analysis.json` and its plots."""
    trained = restore_best(run.directory.with_overrides(data_paths))
    dataset = load_data(trained)
    replicas = {replica.seed: replica for replica in trained.replicas}
    for model in run.models:
        replica = replicas[model.seed]
        model.analysis = _analyze(replica, dataset, trained.config)
        write_record(replica.folder / measures.ANALYSIS_NAME, model.analysis)


def analyze_missing(groups: Sequence[Group], data_paths: Mapping[str, Any]) -> dict[Path, str]:
    """Analyzes the models that have no analysis yet, and stores it in them.

    `data_paths` are places of the data, by dotted path, if not the recorded ones.

    Returns:
      The runs that could not be analyzed, and why, by folder.
    """
    problems = {}
    for run in (run for group in groups for run in group.runs):
        if all(model.analysis for model in run.models):
            continue
        print(f"analyzing {run.directory.path}", flush=True)
        try:
            _analyze_run(run, data_paths)
        except Exception as error:  # the other runs are reported, whatever is wrong with this one
            problems[run.directory.path] = f"not analyzed: {describe(error)}"
    return problems
