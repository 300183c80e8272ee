"""Training, from a configuration to a complete run directory."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
from tqdm import tqdm

from vae_jax import datasets, evaluate, metrics, run_directory, steps
from vae_jax.checkpoints import Checkpoints
from vae_jax.errors import UserError
from vae_jax.metrics import MetricsWriter
from vae_jax.train_state import TrainState

# Steps between two signs of life: each stretch is one call to the device.
_STEPS_PER_CALL = 10


def _check_batch_size(batch_size: int, num_images: int) -> None:
    if batch_size > num_images:
        raise UserError(
            f"train.batch_size is {batch_size}, must be at most {num_images}, "
            "the number of training images"
        )


def _begin_run(config: ml_collections.ConfigDict, workdir: Path, dataset: datasets.Dataset) -> None:
    """Makes the run directory and its `config.json`, or checks that they fit."""
    if (workdir / "config.json").exists():
        run_directory.check_same_data(workdir, dataset.sha256)
        return
    binarized = config.data.binarization != "none"
    record = {"config": config.to_dict()} | run_directory.provenance(
        device_kind=jax.devices()[0].device_kind,
        data_sha256=dataset.sha256,
        binarization_seed=datasets.EVALUATION_BINARIZATION_SEED if binarized else None,
    )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot be made ({error.strerror}); give another folder"
        ) from error
    run_directory.write_json(workdir / "config.json", record)


def _train_one_epoch(
    settings: steps.StepSettings,
    state: TrainState,
    images: jax.Array,
    epoch: int,
    bar: tqdm,
) -> tuple[TrainState, dict[str, float]]:
    """Trains for one epoch; returns the new state and the row's training part.

    The last images of the order that do not fill a batch are left out of this epoch.
    """
    num_steps = len(images) // settings.batch_size
    start = time.perf_counter()
    order = steps.epoch_order(state.root_key, epoch, len(images))
    pieces = []
    for first in range(0, num_steps, _STEPS_PER_CALL):
        count = min(_STEPS_PER_CALL, num_steps - first)
        state, sums = steps.train_epoch(settings, state, images, order, first, count)
        # Waiting for the sums keeps the bar honest.
        pieces.append(jax.device_get(sums))
        loss = pieces[-1].loss.sum() / (count * settings.batch_size)
        bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)
        bar.update(count * settings.batch_size)
    num_images = num_steps * settings.batch_size
    means = metrics.mean_terms(pieces, num_images)
    row = {f"train_{term}": value for term, value in means.items()}
    return state, row | {"images_per_second": round(num_images / (time.perf_counter() - start), 1)}


def _check_finite(row: dict[str, float], epoch: int, learning_rate: float) -> None:
    if not all(math.isfinite(value) for value in row.values()):
        raise UserError(
            f"the loss is not finite in epoch {epoch}, at train.learning_rate {learning_rate}: "
            "lower the rate; the checkpoints hold the epochs before"
        )


def _progress_bar(num_epochs: int, epochs_done: int, images_per_epoch: int) -> tqdm:
    """A bar over the images of all epochs; off where standard error is no terminal."""
    return tqdm(
        total=num_epochs * images_per_epoch,
        initial=epochs_done * images_per_epoch,
        unit=" images",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )


def _train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    dataset: datasets.Dataset,
    checkpoints: Checkpoints,
) -> None:
    """Trains from the last checkpoint, if there is one, to the last epoch."""
    settings = evaluate.step_settings(config)
    num_epochs = config.train.num_epochs
    done = checkpoints.latest_epoch or 0
    if done:
        state = checkpoints.restore(done, steps.abstract_state(settings))
        print(f"resuming after epoch {done} of {num_epochs}", flush=True)
    else:
        state = steps.initial_state(settings, config.seed)
    images = jax.device_put(dataset.train.images)
    images_per_epoch = len(images) // settings.batch_size * settings.batch_size
    with (
        MetricsWriter(workdir, done, int(state.step)) as writer,
        _progress_bar(num_epochs, done, images_per_epoch) as bar,
    ):
        for epoch in range(done + 1, num_epochs + 1):
            bar.set_description(f"epoch {epoch}/{num_epochs}")
            state, row = _train_one_epoch(settings, state, images, epoch, bar)
            validation = evaluate.evaluate_split(settings, state, dataset.validation.images)
            row |= {f"validation_{term}": value for term, value in validation.items()}
            _check_finite(row, epoch, config.train.learning_rate)
            row |= {"epoch": epoch, "step": int(state.step)}
            # The row first: a resumed run drops rows that no checkpoint holds.
            writer.write(row)
            checkpoints.save(epoch, state, row)
            if bar.disable:
                print(_format_row(row, num_epochs), flush=True)


def _format_row(row: dict[str, float], num_epochs: int) -> str:
    return (
        f"epoch {row['epoch']}/{num_epochs}: "
        f"train {row['train_loss']:.2f}, validation {row['validation_loss']:.2f} = "
        f"{row['validation_reconstruction']:.2f} + {row['validation_kl']:.2f} nats per image, "
        f"{row['images_per_second']:.0f} images/s"
    )


def _final_summary(workdir: Path, num_epochs: int) -> dict[str, Any] | None:
    """The summary of a complete run; None where epochs are left, or their evaluation."""
    path = workdir / "summary.json"
    summary = run_directory.read_json(path) if path.exists() else None
    # Mode evaluate writes a summary of an unfinished run too.
    return summary if summary and summary["epochs_trained"] == num_epochs else None


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains a model, or goes on where an earlier call stopped, and evaluates it.

    Args:
      config: a valid configuration, `configs/default.py` with some fields changed.
      workdir: the run directory; made where there is none.

    Raises:
      UserError: the data cannot be had, the batch is larger than the training split, the
        directory cannot hold this run, or the loss is not finite.
    """
    run_directory.check_workdir(workdir, config.to_dict())
    dataset = evaluate.load_dataset(config)
    _check_batch_size(config.train.batch_size, len(dataset.train.images))
    _begin_run(config, workdir, dataset)
    if summary := _final_summary(workdir, config.train.num_epochs):
        print(f"{workdir}: the run is complete; {evaluate.format_summary(summary)}")
        return
    with Checkpoints(workdir) as checkpoints:
        _train(config, workdir, dataset, checkpoints)
    run = evaluate.open_best(config, workdir)
    print(evaluate.format_summary(evaluate.summarize(run, dataset)))
    print(f"figures: {run.figures}")
