"""Runs that end within an epoch and resume, those of older versions too."""

import shutil

import numpy as np
import pytest
import scipy.special

from tests.support import older_versions
from tests.support.common import assert_trees_equal, error_of, settings_of
from tests.support.processes import assert_same_training, latest_state, rows_without_timing
from vae_jax import datasets, train
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.runtime.interrupts import Interrupted
from vae_jax.training import trainer
from vae_jax.training.metrics import COLUMNS
from vae_jax.training.run_directory import RunDirectory

NUM_STEPS = 7  # an epoch of 140 images

pytestmark = pytest.mark.usefixtures("without_report")


def without_numbers(row):
    return {name: value for name, value in row.items() if name in COLUMNS}


@pytest.mark.slow
def test_an_epoch_in_two_parts_has_the_row_of_a_complete_one(
    make_tiny_config, tmp_path, monkeypatch, capsys
):
    # A schedule and a warmup, so that the numbers differ from step to step.
    fields = {"train.learning_rate_schedule": "cosine", "loss.kl_warmup_steps": 100}
    config = make_tiny_config(**fields | {"train.num_epochs": 1})
    complete, resumed, older = (tmp_path / name for name in ("complete", "resumed", "older"))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_CHUNK_SECONDS", 0.0)  # a step each
        patch.setattr(trainer.Trainer, "_should_stop", lambda self: True)
        with pytest.raises(Interrupted, match="saved after step 1, epoch 0 of 1 and a part"):
            train.train_and_evaluate(config, resumed)
    shutil.copytree(resumed, older)
    older_versions.rewrite_run(older)
    for workdir in (complete, resumed, older):
        train.train_and_evaluate(config, workdir)
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
    # An older version did not measure numbers: they are not measured in that epoch.
    assert older_row == without_numbers(expected)


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
    make_tiny_config, tmp_path, monkeypatch, second_is_best, num_replicas
):
    """One checkpoint at the end; one after epoch 3 and a kill in epoch 5."""
    config = make_tiny_config(
        **{"train.num_epochs": 5, "train.batch_size": 14, "train.num_replicas": num_replicas},
        **{"train.ema_decay": 0.9},  # 10 steps an epoch
    )
    many, few, killed = (tmp_path / name for name in ("many", "few", "killed"))
    train.train_and_evaluate(config, many)
    assert checkpoint_steps(many) == [20, 30, 40, 50]
    config.train.checkpoint_seconds = 1000.0
    train.train_and_evaluate(config, few)
    assert checkpoint_steps(few) == [50]
    train_one_epoch = trainer.train_one_epoch

    def failing(settings, state, data, epoch, *rest):
        if epoch == 5:
            raise KeyboardInterrupt
        return train_one_epoch(settings, state, data, epoch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_one_epoch", failing)
        is_due = lambda self: len(self._progress.rows) == 3  # noqa: E731
        patch.setattr(trainer.Trainer, "_is_checkpoint_due", is_due)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, killed)
    assert checkpoint_steps(killed) == [30]
    assert len(rows_without_timing(killed)) == 4
    train.train_and_evaluate(config, killed)
    assert len(checkpoint_steps(killed)) == 2
    expected = restore_best(RunDirectory.open(many)).replicas
    for workdir in (few, killed):
        assert_same_training(workdir, many)
        best = restore_best(RunDirectory.open(workdir)).replicas
        assert best[0].epoch == expected[0].epoch == 2
        assert_trees_equal([each.params for each in best], [each.params for each in expected])


def test_the_training_images_decide_the_initial_state_if_configured(small_config):
    dataset = datasets.load("mnist_5k")
    small_config.output_bias_init = "data_mean"
    small_config.prior.update(kind="vamp", pseudo_inputs="data", num_components=2)
    settings = settings_of(small_config)
    params = trainer._initial_state(settings, small_config, dataset).params
    means = scipy.special.expit(params["decoder"]["logits"]["bias"])
    expected = np.clip(dataset.train_mean.ravel() / 255, 0.001, 0.999)
    np.testing.assert_allclose(means, expected, rtol=1e-4)
    images = dataset.train.images[[0, -1]] / np.float32(255)
    np.testing.assert_allclose(params["prior"]["images"], images, rtol=1e-6)
    small_config.prior.num_components = 4001
    error = error_of(trainer._initial_state, settings_of(small_config), small_config, dataset)
    assert "at most the 4000 training images" in error


@pytest.mark.slow
def test_the_bound_takes_over_after_the_epochs_of_the_elbo(
    make_tiny_config, tmp_path, interrupt_save_of_step
):
    config = make_tiny_config(**{"data.binarization": "dynamic", "loss.kl_warmup_steps": NUM_STEPS})
    train.train_and_evaluate(config, tmp_path / "elbo")
    config.loss.update(num_importance_samples=5, elbo_warmup_epochs=1)
    interrupt_save_of_step(2 * NUM_STEPS)  # the first epoch of the bound is then resumed
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(config, tmp_path / "bound")
    train.train_and_evaluate(config, tmp_path / "bound")
    plain, bound = (rows_without_timing(tmp_path / name) for name in ("elbo", "bound"))
    assert bound[0] == plain[0]
    # The weight of the KL grows over the epoch of the ELBO, and the bound has none.
    assert plain[0]["kl_weight"] == pytest.approx((NUM_STEPS - 1) / 2 / NUM_STEPS)
    assert plain[1]["kl_weight"] == 1.0
    assert "kl_weight" not in bound[1]
    for split in ("train", "validation"):
        terms = {term: bound[1][f"{split}_{term}"] for term in ("reconstruction", "kl", "loss")}
        assert 0.05 < terms["reconstruction"] + terms["kl"] - terms["loss"] < 10.0
