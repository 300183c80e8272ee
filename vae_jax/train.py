"""Training, from a configuration to a complete run directory."""

import contextlib
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from tqdm import tqdm

from vae_jax import datasets, evaluate, metrics, run_directory, steps
from vae_jax.checkpoints import Checkpoints
from vae_jax.errors import UserError
from vae_jax.losses import NegativeElbo
from vae_jax.metrics import MetricsWriter
from vae_jax.train_state import TrainState

# Steps between two signs of life: each stretch is one call to the device. An accelerator takes
# a step in less time than a call costs.
_STEPS_PER_CALL = {"cpu": 10}
_STEPS_PER_CALL_ELSEWHERE = 110


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


def train_one_epoch(
    settings: steps.StepSettings,
    state: TrainState,
    images: jax.Array,
    epoch: int,
    bar: tqdm,
) -> tuple[TrainState, list[dict[str, float]]]:
    """Trains for one epoch.

    The last images of the order that do not fill a batch are left out of this epoch.

    Args:
      settings: model, optimiser and loss.
      state: consumed: its buffers hold the new state.
      images: `<uint8>[n, 28, 28]`, all training images, on the device.
      epoch: the epoch's number, from 1: it decides the order.
      bar: advanced by the images of each finished stretch.

    Returns:
      The new state, and the training part of each replica's row of `metrics.csv`.
    """
    num_steps = len(images) // settings.batch_size
    steps_per_call = _STEPS_PER_CALL.get(jax.default_backend(), _STEPS_PER_CALL_ELSEWHERE)
    start = time.perf_counter()
    order = steps.epoch_order(settings, state.root_key, epoch, len(images))
    pieces = []
    for first in range(0, num_steps, steps_per_call):
        count = min(steps_per_call, num_steps - first)
        state, sums = steps.train_epoch(settings, state, images, order, first, count)
        pieces.append(sums)
        # While this stretch runs, the bar shows the one before: the device never waits.
        if len(pieces) > 1:
            _advance(bar, pieces[-2], settings.batch_size)
    _advance(bar, pieces[-1], settings.batch_size)
    num_images = num_steps * settings.batch_size
    speed = round(num_images / (time.perf_counter() - start), 1)
    means = metrics.mean_terms(pieces, num_images)
    rows = [{f"train_{term}": value for term, value in mean.items()} for mean in means]
    return state, [row | {"images_per_second": speed} for row in rows]


def _advance(bar: tqdm, sums: NegativeElbo, batch_size: int) -> None:
    """Waits for a stretch and shows its mean loss."""
    losses = jax.device_get(sums.loss)
    bar.set_postfix_str(f"loss {losses.mean() / batch_size:.2f}", refresh=False)
    bar.update(len(losses) * batch_size)


def _check_finite(rows: Sequence[dict[str, float]], epoch: int, learning_rate: float) -> None:
    if not all(math.isfinite(value) for row in rows for value in row.values()):
        raise UserError(
            f"the loss is not finite in epoch {epoch}, at train.learning_rate {learning_rate}: "
            "lower the rate; the checkpoints hold the epochs before"
        )


class _Writers:
    """Writes the rows of an epoch: each replica's, and the means where there are several."""

    def __init__(self, folders: Sequence[Path], workdir: Path, last_epoch: int, last_step: int):
        with contextlib.ExitStack() as stack:
            self._each = [
                stack.enter_context(MetricsWriter(folder, last_epoch, last_step))
                for folder in folders
            ]
            if len(folders) > 1:
                columns = metrics.COLUMNS + metrics.STD_COLUMNS
                writer = MetricsWriter(workdir, last_epoch, last_step, columns)
                self._mean = stack.enter_context(writer)
            self._stack = stack.pop_all()

    def write(self, rows: Sequence[dict[str, float]]) -> dict[str, float]:
        """Writes one epoch's rows; returns the one of the run."""
        for writer, row in zip(self._each, rows, strict=True):
            writer.write(row)
        if len(rows) == 1:
            return rows[0]
        combined = metrics.combine(rows)
        self._mean.write(combined)
        return combined

    def __enter__(self) -> "_Writers":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()


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
    steps_per_epoch = len(images) // settings.batch_size
    images_per_epoch = steps_per_epoch * settings.batch_size
    folders = run_directory.replica_folders(workdir, config.seed, settings.num_replicas)
    with (
        _Writers(folders, workdir, done, done * steps_per_epoch) as writers,
        _progress_bar(num_epochs, done, images_per_epoch) as bar,
    ):
        for epoch in range(done + 1, num_epochs + 1):
            bar.set_description(f"epoch {epoch}/{num_epochs}")
            state, rows = train_one_epoch(settings, state, images, epoch, bar)
            validation = evaluate.evaluate_split(settings, state, dataset.validation.images)
            for row, terms in zip(rows, validation, strict=True):
                row |= {f"validation_{term}": value for term, value in terms.items()}
                row |= {"epoch": epoch, "step": epoch * steps_per_epoch}
            _check_finite(rows, epoch, config.train.learning_rate)
            # The rows first: a resumed run drops rows that no checkpoint holds.
            row = writers.write(rows)
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
    folders = [workdir / "figures", *(replica.figures for replica in run.replicas)]
    print(f"figures: {', '.join(map(str, dict.fromkeys(folders)))}")
