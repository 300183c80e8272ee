"""The epochs of a run: training in chunks of steps, validation, rows and checkpoints."""

import contextlib
import dataclasses
import functools
import math
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from tqdm import tqdm

from vae_jax import datasets
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.interrupts import Interrupted, Request
from vae_jax.training import metrics, steps, streaming
from vae_jax.training.batches import to_batch
from vae_jax.training.checkpoints import Checkpoints, Progress
from vae_jax.training.metrics import StepMetrics
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import TrainSettings, train_settings
from vae_jax.training.streaming import StreamedData
from vae_jax.training.train_state import TrainState
from vae_jax.training.validation import evaluate_split

# The time of a chunk, about; a call costs some 10 ms. Two are under way when a signal comes.
_CHUNK_SECONDS = 1.5


class ReadError(UserError):
    """Training images cannot be read; has the state and the epoch's steps until then."""

    def __init__(self, problem: UserError, state: TrainState, steps: StepMetrics | None):
        super().__init__(str(problem))
        self.state, self.steps = state, steps


def train_one_epoch(
    settings: TrainSettings,
    state: TrainState,
    data: Any,
    epoch: int,
    bar: tqdm,
    previous_steps: StepMetrics | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[TrainState, StepMetrics]:
    """Trains for one epoch, or the rest of it, without the last images if they fill no batch.

    Consumes the state; takes all training images, as `steps.train_chunk` does, or streamed. The
    epoch's number, from 1, decides the order; `previous_steps` are those that an interrupted call
    returned. `should_stop` is asked between chunks; True leaves the rest of the epoch out.

    Returns the new state, and the metrics of each step so far, `<float32>[steps, ...]` in NumPy.

    Raises:
      UserError: a loss or gradient is not finite, and the settings do not skip it.
      ReadError: streamed images cannot be read.
    """
    num_steps = len(data) // settings.batch_size
    number = devices.to_device(np.int32(epoch))
    order = steps.epoch_order(settings, state.root_key, number, len(data))
    finished = [] if previous_steps is None else [previous_steps]
    first = 0 if previous_steps is None else len(previous_steps)
    step = (epoch - 1) * num_steps + first
    running, length, begun, should_end, problem = None, 1, 0.0, False, None
    blocks = iter([(data, num_steps)])
    if isinstance(data, StreamedData):
        blocks, order = data.blocks(order, first), None
    while first < num_steps and not should_end:
        try:
            images, end = next(blocks)
        except UserError as error:
            problem = error
            break
        while first < end and not should_end:
            count = min(length, end - first)
            place = devices.to_device((np.int32(first), np.int32(count)))
            state, chunk = steps.train_chunk(settings, state, images, order, *place)
            # While this chunk runs, the host reads the one before: the device never waits.
            if running:
                finished.append(_finish(settings, *running, epoch, step, bar))
                step += running[1]
                seconds = devices.max_over_processes(time.perf_counter() - begun) / running[1]
                length = int(np.clip(_CHUNK_SECONDS / seconds, 1, steps.MAX_CHUNK_STEPS))
            begun, running = time.perf_counter(), (chunk, count)
            first += count
            should_end = should_stop()
    if running:
        finished.append(_finish(settings, *running, epoch, step, bar))
    if problem:
        raise ReadError(problem, state, metrics.concatenate(finished) if finished else None)
    return state, metrics.concatenate(finished)


def _finish(
    settings: TrainSettings, chunk: StepMetrics, count: int, epoch: int, step: int, bar: tqdm
) -> StepMetrics:
    """Waits for the chunk of `count` steps after `step`, checks it and shows its mean loss."""
    chunk = devices.to_host(chunk)[:count]
    loss = chunk.sums["loss"]
    finite = np.isfinite(loss).reshape(len(loss), -1).all(1)
    if not finite.all() and not settings.skip_nonfinite:
        step += int(np.argmin(finite)) + 1
        raise UserError(
            f"the loss or its gradient is not finite at step {step}, in epoch {epoch}: lower "
            f"train.learning_rate, which is {settings.learning_rate_at(jnp.int32(step - 1)):g}, "
            "or set --config.train.skip_nonfinite=True"
        )
    bar.set_postfix_str(f"loss {loss.mean() / settings.batch_size:.2f}", refresh=False)
    bar.update(len(chunk) * settings.batch_size)
    return chunk


# Of arrays that the next step consumes.
_copy = jax.jit(functools.partial(jax.tree.map, jnp.copy))


def _initial_state(
    settings: TrainSettings, config: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> TrainState:
    """Creates the state before the first step, from the seed and, if configured, the images."""
    begins_at_mean, images = config.output_bias_init == "data_mean", dataset.train.images
    mean_image = dataset.train_mean / MAX_PIXEL if begins_at_mean else None
    pseudo_inputs = None
    if number := getattr(settings.evaluation.model.prior, "num_training_images", 0):
        if number > len(images):
            raise UserError(
                f"prior.num_components is {number}, must be at most the {len(images)} training "
                "images, which prior.pseudo_inputs=data takes"
            )
        rows = np.linspace(0, len(images) - 1, number).astype(np.int64)
        pseudo_inputs = (images[rows] / MAX_PIXEL).astype(np.float32)
    return steps.initial_state(settings, config.seed, mean_image, pseudo_inputs)


class Trainer:
    """Trains a run from its last checkpoint to its last epoch."""

    def __init__(
        self,
        run: RunDirectory,
        dataset: datasets.Dataset,
        mesh: jax.sharding.Mesh,
        request: Request,
    ):
        """Restores the last checkpoint, or creates the first state; checks `request` often."""
        self._run, self._config, self._request = run, run.config, request
        self._checkpoints = Checkpoints(run.path)
        self._steps_per_epoch = len(dataset.train) // run.config.train.batch_size
        self._settings = train_settings(run.config, dataset.spec, self._steps_per_epoch, mesh)
        train = run.config.train
        images, on_device = to_batch(dataset.train), run.config.data.on_device
        self._data = streaming.place(images, on_device, train.batch_size, train.num_replicas, mesh)
        self._validation = to_batch(dataset.validation)
        # Progress and time of the last checkpoint; the best epoch's parameters if it ended since.
        self._saved, self._saved_at, self._best = None, time.perf_counter(), None
        if restored := self._checkpoints.restore_latest(steps.abstract_state(self._settings)):
            state, self._progress = restored
            self._saved = self._progress
            self._state = self._settings.evaluation.place(state)
        else:
            self._state = _initial_state(self._settings, run.config, dataset)
            self._progress = Progress()

    @property
    def _step(self) -> int:
        """Steps taken so far."""
        started = 0 if self._progress.steps is None else len(self._progress.steps)
        return len(self._progress.rows) * self._steps_per_epoch + started

    def _place(self) -> str:
        done = f"epoch {len(self._progress.rows)} of {self._config.train.num_epochs}"
        return done if self._progress.steps is None else f"step {self._step}, {done} and a part"

    def _should_stop(self) -> bool:
        return devices.any_process_true(self._request.signal_number is not None)

    def _is_checkpoint_due(self) -> bool:
        seconds = time.perf_counter() - self._saved_at
        return devices.any_process_true(seconds >= self._config.train.checkpoint_seconds)

    def _save(self) -> None:
        self._checkpoints.save(self._step, self._state, self._progress, self._best)
        self._saved, self._saved_at, self._best = self._progress, time.perf_counter(), None

    def _stop(self) -> NoReturn:
        if self._saved is not self._progress:
            self._save()
        number = self._request.signal_number or signal.SIGTERM  # another process was asked
        raise Interrupted(number, f"saved after {self._place()}")

    def run(self) -> None:
        """Trains to the last epoch.

        Raises:
          UserError: a loss is not finite.
          Interrupted: as was requested; everything is saved.
        """
        batch_size, num_epochs = self._settings.batch_size, self._config.train.num_epochs
        is_first = devices.is_first_process()
        if is_first and 0 < self._step < num_epochs * self._steps_per_epoch:
            print(f"resuming after {self._place()}", flush=True)
        total, done = num_epochs * self._steps_per_epoch * batch_size, self._step * batch_size
        quiet = not (is_first and sys.stderr.isatty())
        bar = tqdm(None, None, total, initial=done, unit=" images", unit_scale=True, disable=quiet)
        files = self._run.path, self._run.replica_folders, self._progress.rows
        files_writer = metrics.MetricsWriter(*files) if is_first else contextlib.nullcontext()
        with bar, files_writer as writer:
            for epoch in range(len(self._progress.rows) + 1, num_epochs + 1):
                bar.set_description(f"epoch {epoch}/{num_epochs}")
                rows = self._train(epoch, bar)
                # The rows first: a resumed run drops rows that no checkpoint holds.
                if writer:
                    writer.write(rows)
                self._progress = Progress((*self._progress.rows, rows))
                is_due = epoch == num_epochs or self._is_checkpoint_due()
                if self._progress.best is rows[0]:
                    self._best = None if is_due else _copy(self._state.evaluation_params)
                if is_due:
                    self._save()
                # Before the line is printed: a signal in answer to it falls into the next epoch.
                should_stop = self._should_stop()
                if is_first and bar.disable:
                    print(_format_row(metrics.combine(rows), num_epochs), flush=True)
                if should_stop:
                    self._stop()

    def _train(self, epoch: int, bar: tqdm) -> list[dict[str, float]]:
        """Trains and validates for one epoch; returns each replica's row."""
        start = time.perf_counter()
        evaluation = self._settings.evaluation.in_epoch(epoch)
        settings = dataclasses.replace(self._settings, evaluation=evaluation)
        epoch_steps = self._progress.steps
        try:
            self._state, epoch_steps = train_one_epoch(
                settings, self._state, self._data, epoch, bar, epoch_steps, self._should_stop
            )
        except ReadError as error:
            self._state = error.state
            seconds = self._progress.seconds + time.perf_counter() - start
            self._progress = Progress(self._progress.rows, error.steps, seconds)
            self._save()
            raise UserError(f"{error}; saved after {self._place()}") from error
        seconds = self._progress.seconds + time.perf_counter() - start

        def stop_if_requested() -> None:
            if len(epoch_steps) < self._steps_per_epoch or self._should_stop():
                self._progress = Progress(self._progress.rows, epoch_steps, seconds)
                self._stop()

        stop_if_requested()
        params, key = self._state.evaluation_params, self._state.root_key
        means = evaluate_split(
            evaluation, params, key, self._validation, before_batch=stop_if_requested
        )
        step = epoch * self._steps_per_epoch
        is_finite = np.isfinite(epoch_steps.sums["loss"]).any(axis=0).all()
        if not (is_finite and all(math.isfinite(terms["loss"]) for terms in means)):
            raise UserError(
                f"every update, or the validation loss, is not finite in epoch {epoch}, at step "
                f"{step}: lower train.learning_rate, which is {self._config.train.learning_rate}"
            )
        speed = round(self._steps_per_epoch * settings.batch_size / seconds, 1)
        rows = metrics.epoch_means(epoch_steps, settings.batch_size, settings.skip_nonfinite)
        for row, terms in zip(rows, means, strict=True):
            row |= {f"validation_{term}": value for term, value in terms.items()}
            row |= {"epoch": epoch, "step": step, "images_per_second": speed}
        return rows


def _format_row(row: dict[str, float], num_epochs: int) -> str:
    skipped = row.get(metrics.SKIPPED_COLUMN, 0)
    return (
        f"epoch {row['epoch']}/{num_epochs}: "
        f"train {row['train_loss']:.2f}, validation {row['validation_loss']:.2f} (reconstruction "
        f"{row['validation_reconstruction']:.2f}, KL {row['validation_kl']:.2f}) nats per image, "
        f"{row['images_per_second']:.0f} images/s"
        + (f", {skipped:g} updates skipped" if skipped else "")
    )
