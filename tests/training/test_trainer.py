"""Runs that end within an epoch and resume, those of older versions too."""

import os
import shutil
import signal

import numpy as np
import pytest

from tests.support import older_versions
from tests.support.common import assert_trees_equal
from tests.support.processes import assert_same_training, latest_state
from tests.support.reading import rows_without_timing
from vae_jax import train
from vae_jax.datasets import Split
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.runtime import devices
from vae_jax.runtime.interrupts import Interrupted
from vae_jax.training import trainer
from vae_jax.training.batches import to_batch
from vae_jax.training.metrics import COLUMNS
from vae_jax.training.run_directory import RunDirectory

NUM_STEPS = 40  # an epoch of 4,000 images
NUMBERS = ("gradient_norm", "learning_rate")

pytestmark = pytest.mark.usefixtures("without_report")


def without_numbers(row):
    return {name: value for name, value in row.items() if name in COLUMNS}


@pytest.mark.slow
def test_an_epoch_in_two_parts_has_the_row_of_a_complete_one(
    small_config, tmp_path, monkeypatch, capsys
):
    # A schedule and a warmup, so that the numbers differ from step to step.
    small_config.train.num_epochs = 1
    small_config.train.learning_rate_schedule = "cosine"
    small_config.loss.kl_warmup_steps = 100
    complete, resumed, older = (tmp_path / name for name in ("complete", "resumed", "older"))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_CHUNK_SECONDS", 0.0)  # a step each
        patch.setattr(trainer.Trainer, "_should_stop", lambda self: True)
        with pytest.raises(Interrupted, match="saved after step 1, epoch 0 of 1 and a part"):
            train.train_and_evaluate(small_config, resumed)
    shutil.copytree(resumed, older)
    older_versions.rewrite_run(older)
    for workdir in (complete, resumed, older):
        train.train_and_evaluate(small_config, workdir)
    assert capsys.readouterr().out.count("resuming after step 1, epoch 0 of 1") == 2
    [expected], [row], [older_row] = map(rows_without_timing, (complete, resumed, older))
    assert row == expected
    states = [latest_state(workdir)[0] for workdir in (complete, resumed, older)]
    assert_trees_equal(states[0], states[1])
    assert_trees_equal(states[0], states[2])
    rates = 0.0015 * (1.0 + np.cos(np.pi * np.arange(NUM_STEPS) / NUM_STEPS))
    assert row["learning_rate"] == pytest.approx(rates.mean(), rel=1e-5)
    assert row["kl_weight"] == pytest.approx(np.arange(NUM_STEPS).mean() / 100, rel=1e-5)
    assert row["gradient_norm"] > 0.0
    # An older version did not measure numbers: they are those of the steps since.
    assert without_numbers(older_row) == without_numbers(expected)
    assert older_row["learning_rate"] == pytest.approx(rates[1:].mean(), rel=1e-5)


@pytest.mark.slow
def test_a_run_of_an_older_version_is_trained_further(small_config, copied_run, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(copied_run, older)
    older_versions.rewrite_run(older)
    small_config.train.num_epochs = 3
    for workdir in (copied_run, older):
        train.train_and_evaluate(small_config, workdir)
    assert_trees_equal(latest_state(copied_run)[0], latest_state(older)[0])
    expected, rows = map(rows_without_timing, (copied_run, older))
    assert rows == [*map(without_numbers, expected[:2]), expected[2]]
    header, *lines = (older / "metrics.csv").read_text().splitlines()
    assert header.endswith(",images_per_second,gradient_norm,learning_rate")
    assert [line.endswith(",,") for line in lines] == [True, True, False]


@pytest.fixture
def second_is_best(monkeypatch):
    """Makes the second epoch that with the lowest validation loss."""
    train_epoch = trainer.Trainer._train

    def with_losses(self, epoch, bar):
        rows = train_epoch(self, epoch, bar)
        distance = 1000.0 * abs(epoch - 2)
        return [row | {"validation_loss": row["validation_loss"] + distance} for row in rows]

    monkeypatch.setattr(trainer.Trainer, "_train", with_losses)


def checkpoint_steps(workdir):
    return sorted(int(path.stem) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("num_replicas", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_a_run_with_few_checkpoints_is_that_with_many(
    small_config, tmp_path, monkeypatch, second_is_best, num_replicas
):
    """One checkpoint at the end; one after epoch 3 and a kill in epoch 5; a signal in epoch 4."""
    small_config.train.num_epochs = 5
    small_config.train.batch_size = 400  # 10 steps an epoch
    small_config.train.num_replicas = num_replicas
    small_config.train.ema_decay = 0.9
    many, few, killed, ended = (tmp_path / name for name in ("many", "few", "killed", "ended"))
    train.train_and_evaluate(small_config, many)
    assert checkpoint_steps(many) == [20, 30, 40, 50]
    small_config.train.checkpoint_seconds = 1000.0
    train.train_and_evaluate(small_config, few)
    assert checkpoint_steps(few) == [50]
    train_one_epoch = trainer.train_one_epoch

    def failing(settings, state, data, epoch, *rest):
        if epoch == 5:
            raise KeyboardInterrupt
        return train_one_epoch(settings, state, data, epoch, *rest)

    def signaled(settings, state, data, epoch, *rest):
        if epoch == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_one_epoch(settings, state, data, epoch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_one_epoch", failing)
        is_due = lambda self: len(self._progress.rows) == 3  # noqa: E731
        patch.setattr(trainer.Trainer, "_is_checkpoint_due", is_due)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(small_config, killed)
        patch.setattr(trainer, "train_one_epoch", signaled)
        patch.setattr(trainer.Trainer, "_is_checkpoint_due", lambda self: False)
        with pytest.raises(Interrupted, match=r"saved after step 3\d, epoch 3 of 5"):
            train.train_and_evaluate(small_config, ended)
    assert checkpoint_steps(killed) == [30]
    assert len(rows_without_timing(killed)) == 4
    for workdir in (killed, ended):
        train.train_and_evaluate(small_config, workdir)
        assert len(checkpoint_steps(workdir)) == 2
    expected = restore_best(RunDirectory.open(many))
    for workdir in (few, killed, ended):
        assert_same_training(workdir, many)
        best = restore_best(RunDirectory.open(workdir))
        assert best.epoch == expected.epoch == 2
        assert_trees_equal([r.params for r in best.replicas], [r.params for r in expected.replicas])


def test_every_process_saves_if_one_is_to(small_config, monkeypatch):
    small_config.train.checkpoint_seconds = 1000.0
    run = object.__new__(trainer.Trainer)
    run._config, run._saved_at = small_config, trainer.time.perf_counter()
    assert not run._is_checkpoint_due()
    monkeypatch.setattr(devices, "max_over_processes", lambda value: 1.0)  # in another process
    assert run._is_checkpoint_due()


def test_a_chunk_takes_as_many_steps_as_fit_into_its_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now)
    pace, lengths = trainer._Pace(), []
    pace.update(0)
    for seconds_per_step in (0.14, 30.0, 0.7, 0.0):
        num_steps = pace.steps_per_chunk
        now += seconds_per_step * num_steps
        pace.update(num_steps)
        lengths.append(pace.steps_per_chunk)
    assert lengths == [10, 1, 2, 32]


def test_labels_go_to_the_device_as_indices_if_there_are_some():
    images = np.zeros((3, 2, 2, 1), np.uint8)
    batch = to_batch(Split(images, np.array([2, 0, 1], np.int64)))
    assert batch.images is images
    assert batch.labels.dtype == np.int32
    np.testing.assert_array_equal(batch.labels, [2, 0, 1])
    assert to_batch(Split(images, None)).labels is None


@pytest.mark.slow
def test_a_run_that_begins_at_the_mean_is_ahead_in_its_first_steps(
    small_config, trained_run, tmp_path
):
    small_config.train.num_epochs = 1
    small_config.output_bias_init = "data_mean"
    train.train_and_evaluate(small_config, tmp_path)
    ahead, plain = (rows_without_timing(f)[0]["train_loss"] for f in (tmp_path, trained_run))
    assert ahead < plain - 5.0


@pytest.mark.slow
def test_the_bound_takes_over_after_the_epochs_of_the_elbo(
    small_config, tmp_path, interrupt_save_of_step
):
    small_config.data.binarization = "dynamic"
    small_config.loss.kl_warmup_steps = 40
    train.train_and_evaluate(small_config, tmp_path / "elbo")
    small_config.loss.num_importance_samples = 5
    small_config.loss.elbo_warmup_epochs = 1
    interrupt_save_of_step(80)  # the first epoch of the bound is then resumed
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(small_config, tmp_path / "bound")
    train.train_and_evaluate(small_config, tmp_path / "bound")
    plain, bound = (rows_without_timing(tmp_path / name) for name in ("elbo", "bound"))
    assert bound[0] == plain[0]
    # The weight of the KL grows over the epoch of the ELBO, and the bound has none.
    assert plain[0]["kl_weight"] == pytest.approx(39 / 2 / 40)
    assert plain[1]["kl_weight"] == 1.0
    assert "kl_weight" not in bound[1]
    for split in ("train", "validation"):
        terms = {term: bound[1][f"{split}_{term}"] for term in ("reconstruction", "kl", "loss")}
        assert 0.5 < terms["reconstruction"] + terms["kl"] - terms["loss"] < 10.0
