"""The summary of a run's best epoch, and its plots."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vae_jax import datasets
from vae_jax.evaluation import generation, plots
from vae_jax.evaluation.measures import SUMMARY_NAME, UNITS, MeanTerms, Summary
from vae_jax.evaluation.trained_run import Replica, TrainedRun
from vae_jax.model.likelihoods import MAX_PIXEL, to_bits_per_dimension
from vae_jax.model.rng_streams import make_root_key
from vae_jax.model.structs import Batch
from vae_jax.runtime.files import write_record
from vae_jax.training import metrics
from vae_jax.training.batches import to_batch
from vae_jax.training.train_state import num_parameters
from vae_jax.training.validation import evaluate_split

NUM_SAMPLES = 100
_NUM_COLUMNS = 10
_MAX_CLASS_ROWS = 20
_NUM_RECONSTRUCTION_ROWS = 3
_NUM_INTERPOLATION_STEPS = 10


def save_samples(
    replica: Replica,
    pixels: bool = False,
    num_images: int = NUM_SAMPLES,
    seed: int | None = None,
    label: int | None = None,
) -> Iterator[np.ndarray]:
    """Draws samples and plots a grid of 100 at most; of a conditional model a row for each class.

    The seed is the replica's own if None, and the classes are all classes if `label` is None.

    Yields:
      All images, some at a time, `<float32>[n, height, width, channels]`; plots after the last.
    """
    root_key = replica.root_key if seed is None else make_root_key(seed)
    num_classes = replica.model.num_classes
    labels = generation.spread_labels(num_images, num_classes, label)
    trained, data = replica.model_and_params, Batch(labels=labels)
    latents = generation.draw_latents(*trained, root_key, num_images, data=data)
    if labels is None or label is not None:
        places = np.arange(min(num_images, NUM_SAMPLES))
        rows = math.isqrt(len(places))
    else:
        rows = min(num_classes, num_images, _MAX_CLASS_ROWS)
        per_row = min(num_images // rows, _NUM_COLUMNS)
        starts = np.searchsorted(labels, np.unique(labels)[:rows])
        places = (starts[:, None] + np.arange(per_row)).reshape(-1)
    start, pieces = 0, []
    pixel_key = root_key if pixels else None
    for images in generation.iterate_images(*trained, latents, data, pixel_key):
        yield images
        pieces.append(images[places[(places >= start) & (places < start + len(images))] - start])
        start += len(images)
    shown = np.concatenate(pieces)
    columns = -(-len(shown) // rows)
    missing = rows * columns - len(shown)  # white in the last row
    grid = np.pad(
        replica.shown(shown), [(0, missing), (0, 0), (0, 0), (0, 0)], constant_values=1.0
    ).reshape(rows, columns, *shown.shape[1:])
    title = "Pixels drawn" if pixels else "Samples"
    title += f" from random latents, epoch {replica.epoch}"
    plots.save_image_grid(replica.plots / "samples.png", grid, title)


def save_interpolation(replica: Replica, test: datasets.Split) -> None:
    """Plots rows from one test image to another of a different class, or a distant one."""
    pairs = generation.pick_pairs(test.images, test.labels, _NUM_COLUMNS)
    first, last = (to_batch(test[rows]) for rows in pairs)
    between = generation.interpolate(
        *replica.model_and_params, first, last, _NUM_INTERPOLATION_STEPS
    )
    rows = (np.asarray(first.images) / MAX_PIXEL, between, np.asarray(last.images) / MAX_PIXEL)
    plots.save_interpolation(replica.plots / "interpolation.png", *map(replica.shown, rows))


def save_reconstructions(replica: Replica, test: datasets.Split) -> None:
    """Plots the first test images above their reconstructions."""
    columns = min(_NUM_COLUMNS, len(test))
    rows = min(_NUM_RECONSTRUCTION_ROWS, len(test) // columns)
    data = to_batch(test[: rows * columns])
    reconstructions = generation.reconstruct(*replica.model_and_params, data)
    grids = (
        replica.shown(each).reshape(rows, columns, *each.shape[1:])
        for each in (np.asarray(data.images) / MAX_PIXEL, reconstructions)
    )
    plots.save_reconstructions(replica.plots / "reconstructions.png", *grids)


def save_classes(replica: Replica, test: datasets.Split) -> None:
    """Plots one test image a row, its reconstruction, and its latents decoded in every class."""
    data = to_batch(test[:_NUM_COLUMNS])
    in_every_class = generation.reconstruct_in_every_class(*replica.model_and_params, data)
    reconstructions = generation.reconstruct(*replica.model_and_params, data)
    originals = np.asarray(data.images) / MAX_PIXEL
    columns = [originals, reconstructions, *in_every_class[:_MAX_CLASS_ROWS]]
    title = "Test images, their reconstructions, and the same latents in every class"
    grid = replica.shown(np.stack(columns, axis=1))
    plots.save_image_grid(replica.plots / "classes.png", grid, title)


def _finish(folder: Path, rows: Sequence[dict[str, float]], summary: Summary) -> Summary:
    """Plots the loss curves and writes the summary."""
    plots.save_loss_curves(folder / "plots" / "loss_curves.png", rows, summary.best_epoch)
    # Last: a run is complete when this file is there.
    write_record(folder / SUMMARY_NAME, summary)
    return summary


def _summarize_replica(
    replica: Replica, dataset: datasets.Dataset, rows: Sequence[dict[str, float]]
) -> Summary:
    """Writes a replica's `summary.json` and its plots; returns the summary."""
    validation, test = (
        evaluate_split(replica.settings, replica.params, replica.root_key, to_batch(split))[0]
        for split in (dataset.validation, dataset.test)
    )
    seconds = sum(len(dataset.train.images) / row["images_per_second"] for row in rows)
    skipped = metrics.SKIPPED_COLUMN
    summary = Summary(
        units=UNITS,
        best_epoch=replica.epoch,
        best_step=replica.step,
        epochs_trained=len(rows),
        parameters=num_parameters(replica.params),
        validation=validation,
        test=test,
        training_seconds=round(seconds, 1),
        seed=replica.seed,
        skipped_updates=int(sum(row[skipped] for row in rows)) if skipped in rows[0] else None,
        test_bits_per_dimension=_bits(replica, test),
    )
    save_reconstructions(replica, dataset.test)
    for _ in save_samples(replica):
        pass
    save_interpolation(replica, dataset.test)
    if replica.model.num_classes:
        save_classes(replica, dataset.test)
    return _finish(replica.folder, rows, summary)


def _bits(replica: Replica, terms: MeanTerms) -> float | None:
    """Converts a loss to bits per dimension if it bounds -log p(x) of discrete pixels."""
    model, objective = replica.model, replica.settings.objective
    if not model.likelihood.is_discrete or objective.kl_weight != 1.0:
        return None
    return to_bits_per_dimension(terms["loss"], math.prod(model.image_shape))


def summarize(run: TrainedRun, dataset: datasets.Dataset) -> Summary:
    """Writes the summaries and plots of the best epoch; returns the run's summary.

    With several replicas each has its own, and the run's summary holds the means of their
    losses, the standard deviations and the seeds.
    """
    summaries = [
        _summarize_replica(replica, dataset, rows)
        for replica, rows in zip(run.replicas, zip(*run.rows, strict=True), strict=True)
    ]
    if len(summaries) == 1:
        return summaries[0]
    validation, validation_std = metrics.mean_and_std([each.validation for each in summaries])
    test, test_std = metrics.mean_and_std([each.test for each in summaries])
    summary = dataclasses.replace(
        summaries[0],
        seed=None,
        seeds=[replica.seed for replica in run.replicas],
        validation=validation,
        validation_std=validation_std,
        test=test,
        test_std=test_std,
        test_bits_per_dimension=_bits(run.replicas[0], test),
    )
    return _finish(run.workdir, [metrics.combine(rows) for rows in run.rows], summary)


def format_summary(summary: Summary) -> str:
    """Formats a summary's losses as one line."""
    splits = {
        "validation": (summary.validation, summary.validation_std),
        "test": (summary.test, summary.test_std),
    }
    losses = ", ".join(
        f"{name} {terms['loss']:.2f}"
        + (f" ± {std['loss']:.2f}" if std else "")
        + f" (reconstruction {terms['reconstruction']:.2f}, KL {terms['kl']:.2f})"
        for name, (terms, std) in splits.items()
    )
    bits = summary.test_bits_per_dimension
    in_bits = f", test {bits:.3f} bits per dimension" if bits is not None else ""
    seeds = f", {len(summary.seeds)} seeds" if summary.seeds else ""
    epochs = f"best epoch {summary.best_epoch} of {summary.epochs_trained}"
    return f"{epochs}{seeds}: {losses} {summary.units}{in_bits}"
