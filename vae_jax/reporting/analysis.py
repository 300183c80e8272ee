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
from vae_jax.evaluation.measures import try_measure
from vae_jax.evaluation.trained_run import Replica, load_data, restore_best
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.model.rng_streams import Stream
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


@functools.lru_cache(maxsize=1)
def _reference_and_ceiling(**data: Any) -> tuple[quality.Reference, measures.SampleMeasures | None]:
    """Makes the reference for samples, and measures as many real training images against it.

    The arguments are those of `datasets.load`. No generator can be expected to do better than this
    ceiling; its copies are looked for in the other training images, and without any it is None.
    """
    dataset = datasets.load(**data)
    is_digits = datasets.SOURCES[dataset.name].is_digits
    params = digit_classifier.load_weights() if is_digits else None
    splits = (_spread(split) for split in (dataset.train, dataset.test))
    train, test = (np.asarray(split.images) / np.float32(MAX_PIXEL) for split in splits)
    reference = quality.make_reference(params, train, test)
    if len(train) <= len(test):
        return reference, None
    others = quality.make_reference(params, train[len(test) :], test)
    return reference, quality.measure(others, train[: len(test)])


def _measure_latents(replica: Replica, dataset: datasets.Dataset) -> measures.LatentMeasures:
    """Measures and plots the test images' posteriors."""
    train, test = dataset.train, dataset.test
    posterior = generation.encode(*replica.model_and_params, to_batch(test))
    mean, accuracy = posterior.mean, None
    methods = {"PCA": latent_statistics.pca_map, "t-SNE": latent_statistics.tsne_map}
    maps = {
        title: points
        for title, method in methods.items()
        if (points := try_measure(f"{title} map", method, mean[:_NUM_MAPPED])) is not None
    }
    path = replica.plots / "latent_map.png"
    path.unlink(missing_ok=True)  # that of another epoch
    if maps:
        plots.save_latent_map(path, maps, test[:_NUM_MAPPED].labels, dataset.class_names)
    if train.labels is not None and test.labels is not None:
        train_mean = generation.encode(*replica.model_and_params, to_batch(train)).mean
        inputs = (train_mean, train.labels, mean, test.labels)
        accuracy = try_measure("probe_accuracy", latent_statistics.linear_probe, *inputs)
    latents = latent_statistics.posterior_measures(replica.model.prior, posterior)
    return dataclasses.replace(latents, probe_accuracy=accuracy)


def _measure_reconstructions(
    replica: Replica, test: datasets.Split, reference: quality.Reference
) -> measures.ReconstructionMeasures:
    """Measures the test images' reconstructions."""
    test, accuracy = _spread(test), None
    originals = np.asarray(test.images) / np.float32(MAX_PIXEL)
    images = generation.reconstruct(*replica.model_and_params, to_batch(test))
    if predictions := reference.describe(images)[1]:
        accuracy = float((predictions.labels == test.labels).mean())
    return measures.ReconstructionMeasures(
        mean_squared_error=float(((images - originals) ** 2).mean(dtype=np.float64)),
        sharpness=try_measure("sharpness", quality.sharpness, images, originals),
        classifier_accuracy=accuracy,
    )


def _measure_interpolations(
    replica: Replica, test: datasets.Split
) -> measures.InterpolationMeasures:
    """Measures lines between test images, the first to the second and so on."""
    data = to_batch(test[: 2 * min(len(test) // 2, _NUM_PATHS)])
    ends = (data[0::2], data[1::2])
    paths = generation.interpolate(*replica.model_and_params, *ends, _NUM_PATH_STEPS)
    ratio = try_measure("max_mean_step_ratio", quality.max_mean_step_ratio, paths)
    return measures.InterpolationMeasures(ratio)


def _analyze(
    replica: Replica, dataset: datasets.Dataset, config: ml_collections.ConfigDict
) -> measures.Analysis:
    """Measures one model."""
    # Samples are means of gray pixels, and are measured against gray images.
    reference, ceiling = _reference_and_ceiling(**{**config.data, "binarization": "none"})
    test = dataset.test
    images = generation.sample(
        *replica.model_and_params,
        replica.root_key,
        len(test),
        Stream.MEASURED_SAMPLES,  # not the samples of the plot
        to_batch(test),
    )
    return measures.Analysis(
        version=measures.ANALYSIS_VERSION,
        best_step=replica.step,
        latents=_measure_latents(replica, dataset),
        reconstructions=_measure_reconstructions(replica, test, reference),
        interpolations=_measure_interpolations(replica, test),
        samples=quality.measure(reference, images) if np.isfinite(images).all() else None,
        ceiling=ceiling,
    )


def _analyze_run(run: Run, data_paths: Mapping[str, Any]) -> None:
    """Measures each replica of a run; writes `analysis.json` and its plots."""
    trained = restore_best(run.directory.with_overrides(data_paths))
    dataset = load_data(trained)
    for model, replica in zip(run.models, trained.replicas, strict=True):
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
