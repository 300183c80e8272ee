"""The summary of a run's best epoch, and its plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax import datasets
from vae_jax.evaluation import generation, plots
from vae_jax.evaluation.trained_run import Replica, TrainedRun
from vae_jax.training import metrics, run_directory, steps
from vae_jax.training.train_state import num_parameters
from vae_jax.training.validation import evaluate_split

_GRID = (10, 10)
_NUM_RECONSTRUCTION_ROWS = 3
_NUM_INTERPOLATION_STEPS = 10


def save_samples(replica: Replica) -> np.ndarray:
    """Draws the grid of samples; returns its images, `<float32>[100, 28, 28]`."""
    images = generation.sample_prior(
        replica.model, replica.state.params, replica.state.root_key, _GRID[0] * _GRID[1]
    )
    grid = images.reshape(*_GRID, *images.shape[1:])
    plots.save_image_grid(
        replica.figures / "samples.png", grid, f"Samples from random latents, epoch {replica.epoch}"
    )
    return images


def save_interpolation(replica: Replica, test: datasets.Split) -> None:
    """Draws rows from one test digit to another of a different class."""
    first, last = (test.images[rows] for rows in generation.pairs_of_different_classes(test.labels))
    between = generation.interpolate(
        replica.model, replica.state.params, first, last, _NUM_INTERPOLATION_STEPS
    )
    plots.save_interpolation(
        replica.figures / "interpolation.png",
        first / steps.MAX_PIXEL,
        between,
        last / steps.MAX_PIXEL,
    )


def save_reconstructions(replica: Replica, test: datasets.Split) -> None:
    """Draws the first test images above their reconstructions."""
    shape = (_NUM_RECONSTRUCTION_ROWS, _GRID[1], *test.images.shape[1:])
    images = test.images[: shape[0] * shape[1]]
    reconstructions = generation.reconstruct(replica.model, replica.state.params, images)
    plots.save_reconstructions(
        replica.figures / "reconstructions.png",
        images.reshape(shape) / steps.MAX_PIXEL,
        reconstructions.reshape(shape),
    )


def _finish(folder: Path, rows: Sequence[dict[str, float]], summary: dict[str, Any]) -> None:
    plots.save_loss_curves(folder / "figures" / "loss_curves.png", rows, summary["best_epoch"])
    # Last: a run is complete when this file is there.
    run_directory.write_json(folder / "summary.json", summary)


def _summarize_replica(
    replica: Replica, dataset: datasets.Dataset, rows: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """Writes a replica's `summary.json` and its four figures; returns the summary."""
    splits = {"validation": dataset.validation, "test": dataset.test}
    seconds = sum(len(dataset.train.images) / row["images_per_second"] for row in rows)
    summary = {
        "units": "nats per image",
        "seed": replica.seed,
        "best_epoch": replica.epoch,
        "best_step": int(replica.state.step),
        "epochs_trained": len(rows),
        "parameters": num_parameters(replica.state),
        **{
            name: evaluate_split(replica.settings, replica.state, split.images)[0]
            for name, split in splits.items()
        },
        "training_seconds": round(seconds, 1),
    }
    if replica.settings.skip_nonfinite:
        summary[metrics.SKIPPED_COLUMN] = int(sum(row[metrics.SKIPPED_COLUMN] for row in rows))
    save_reconstructions(replica, dataset.test)
    save_samples(replica)
    save_interpolation(replica, dataset.test)
    _finish(replica.folder, rows, summary)
    return summary


def summarize(run: TrainedRun, dataset: datasets.Dataset) -> dict[str, Any]:
    """Writes the summaries and figures of the best epoch; returns the run's summary.

    With several replicas each has its own, and the run's summary holds the means of their
    figures, the standard deviations and the seeds.
    """
    summaries = [
        _summarize_replica(replica, dataset, rows)
        for replica, rows in zip(run.replicas, zip(*run.rows, strict=True), strict=True)
    ]
    if len(summaries) == 1:
        return summaries[0]
    summary = {name: value for name, value in summaries[0].items() if name != "seed"}
    summary["seeds"] = [replica.seed for replica in run.replicas]
    for split in ("validation", "test"):
        mean, std = metrics.mean_and_std([each[split] for each in summaries])
        summary |= {split: mean, f"{split}_std": std}
    _finish(run.workdir, [metrics.combine(rows) for rows in run.rows], summary)
    return summary


def _format_split(summary: dict[str, Any], split: str) -> str:
    terms, std = summary[split], summary.get(f"{split}_std")
    spread = f" ± {std['loss']:.2f}" if std else ""
    parts = f"reconstruction {terms['reconstruction']:.2f}, KL {terms['kl']:.2f}"
    return f"{split} {terms['loss']:.2f}{spread} ({parts})"


def format_summary(summary: dict[str, Any]) -> str:
    """One line of a summary's figures."""
    splits = ", ".join(_format_split(summary, split) for split in ("validation", "test"))
    seeds = f", {len(summary['seeds'])} seeds" if "seeds" in summary else ""
    return (
        f"best epoch {summary['best_epoch']} of {summary['epochs_trained']}{seeds}: {splits} "
        f"{summary['units']}"
    )
