"""The summary of a run's best epoch, and its plots."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from vae_jax import datasets
from vae_jax.evaluation import generation
from vae_jax.evaluation.image_output import save_grid
from vae_jax.evaluation.measures import SUMMARY_NAME, UNITS, MeanTerms, Summary
from vae_jax.evaluation.trained_run import Replica, TrainedRun
from vae_jax.model.likelihoods import MAX_PIXEL, to_bits_per_dimension
from vae_jax.model.structs import Batch
from vae_jax.runtime.files import write_record
from vae_jax.training import metrics
from vae_jax.training.batches import to_batch
from vae_jax.training.train_state import num_parameters
from vae_jax.training.validation import evaluate_split

_NUM_COLUMNS = 10
_NUM_SAMPLE_ROWS = 10
_MAX_CLASS_ROWS = 20
_NUM_RECONSTRUCTION_ROWS = 3
_NUM_INTERPOLATION_STEPS = 10


def save_samples(
    replica: Replica, num_images: int = 100, label: int | None = None, pixels: bool = False
) -> None:
    """Plots a grid of 100 samples, or fewer; a row for each class unless a `label` is given."""
    num_classes = replica.model.num_classes
    if num_classes and label is None:
        rows = min(num_classes, num_images, _MAX_CLASS_ROWS)
        columns = min(num_images // rows, _NUM_COLUMNS)
        labels = np.arange(rows, dtype=np.int32).repeat(columns)
    else:
        columns = min(num_images, _NUM_COLUMNS)
        rows = min(num_images // columns, _NUM_SAMPLE_ROWS)
        labels = generation.spread_labels(rows * columns, num_classes, label)
    trained = (*replica.model_and_params, replica.root_key)
    data = Batch(labels=labels)
    images = generation.sample(*trained, rows * columns, data=data, pixels=pixels)
    grid = replica.shown(images).reshape(rows, columns, *images.shape[1:])
    save_grid(replica.plots / "samples.png", grid)


def save_interpolation(replica: Replica, test: datasets.Split) -> None:
    """Plots rows from one image, through the latent space, to one of another class."""
    pairs = generation.pick_pairs(test.labels, len(test), _NUM_COLUMNS)
    first, last = (to_batch(test[rows]) for rows in pairs)
    steps = generation.interpolate(*replica.model_and_params, first, last, _NUM_INTERPOLATION_STEPS)
    ends = (np.asarray(data.images) / np.float32(MAX_PIXEL) for data in (first, last))
    begin, end = (replica.shown(images)[:, None] for images in ends)
    gap = np.ones_like(begin)
    grid = np.concatenate([begin, gap, replica.shown(steps), gap, end], axis=1)
    save_grid(replica.plots / "interpolation.png", grid)


def save_reconstructions(replica: Replica, test: datasets.Split) -> None:
    """Plots rows of the first test images, each above the row of their reconstructions."""
    columns = min(_NUM_COLUMNS, len(test))
    rows = min(_NUM_RECONSTRUCTION_ROWS, len(test) // columns)
    data = to_batch(test[: rows * columns])
    images = generation.reconstruct(*replica.model_and_params, data)
    shape = (rows, columns, *replica.model.image_shape)
    originals = np.asarray(data.images) / np.float32(MAX_PIXEL)
    pairs = np.stack([originals.reshape(shape), images.reshape(shape)], axis=1)
    grid = replica.shown(pairs).reshape(2 * rows, *shape[1:])
    save_grid(replica.plots / "reconstructions.png", grid)


def _finish(folder: Path, rows: Sequence[dict[str, float]], summary: Summary) -> Summary:
    """Plots the loss curves and writes the summary."""
    from vae_jax.evaluation import plots  # Matplotlib is slow to import

    plots.save_loss_curves(folder / "plots" / "loss_curves.png", rows, summary.best_epoch)
    # Last: a run is complete when this file is there.
    write_record(folder / SUMMARY_NAME, summary)
    return summary


def _summarize_replica(
    replica: Replica,
    dataset: datasets.Dataset,
    rows: Sequence[dict[str, float]],
    trained_on: jax.sharding.Mesh | None,
) -> Summary:
    """Writes a replica's `summary.json` and its plots; returns the summary."""
    settings = replica.settings.on_mesh(trained_on)
    params, root_key = settings.place((replica.params, replica.root_key))

    def evaluate(split: datasets.Split) -> MeanTerms:
        return evaluate_split(settings, params, root_key, to_batch(split))[0]

    test, prefix = evaluate(dataset.test), "validation_"
    if trained_on:
        [row] = (row for row in rows if row["epoch"] == replica.epoch)
        validation = {n.removeprefix(prefix): row[n] for n in row if n.startswith(prefix)}
    else:
        validation = evaluate(dataset.validation)
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
    save_samples(replica)
    save_interpolation(replica, dataset.test)
    return _finish(replica.folder, rows, summary)


def _bits(replica: Replica, terms: MeanTerms) -> float | None:
    """Converts a loss to bits per dimension if it bounds -log p(x) of discrete pixels."""
    model, objective = replica.model, replica.settings.objective
    if not model.likelihood.is_discrete or objective.kl_weight != 1.0:
        return None
    return to_bits_per_dimension(terms["loss"], math.prod(model.image_shape))


def summarize(
    run: TrainedRun, dataset: datasets.Dataset, trained_on: jax.sharding.Mesh | None = None
) -> Summary:
    """Writes the summaries and plots of the best epoch; returns the run's summary.

    The validation losses are measured; or, after training, those of the run's rows, and the devices
    of training measure the test losses.

    With several replicas each has its own, and the run's summary holds the means of their
    losses, the standard deviations and the seeds.
    """
    summaries = [
        _summarize_replica(replica, dataset, rows, trained_on)
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
    losses = []
    for name in ("validation", "test"):
        terms, std = getattr(summary, name), getattr(summary, f"{name}_std")
        deviation = f" ± {std['loss']:.2f}" if std else ""
        parts = f"reconstruction {terms['reconstruction']:.2f}, KL {terms['kl']:.2f}"
        losses.append(f"{name} {terms['loss']:.2f}{deviation} ({parts})")
    bits = summary.test_bits_per_dimension
    in_bits = f", test {bits:.3f} bits per dimension" if bits is not None else ""
    seeds = f", {len(summary.seeds)} seeds" if summary.seeds else ""
    epochs = f"best epoch {summary.best_epoch} of {summary.epochs_trained}"
    return f"{epochs}{seeds}: {', '.join(losses)} {summary.units}{in_bits}"
