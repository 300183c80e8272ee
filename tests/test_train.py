"""Whole runs on real digits, in this process: they learn, resume and refuse."""

import json
import math
import shutil
import sys

import jax
import numpy as np
import optax
import pytest

from tests.support.common import assert_trees_equal, settings_of
from tests.support.processes import assert_same_run
from tests.support.reading import rows_without_timing
from vae_jax import datasets, evaluate, interpolate, sample, train
from vae_jax.evaluation import generation
from vae_jax.evaluation.measures import SUMMARY_NAME, Summary
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.model.structs import Batch
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import read_record
from vae_jax.training import settings, steps
from vae_jax.training.batches import to_batch
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.metrics import read_rows
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.validation import evaluate_batch, evaluate_split

pytestmark = pytest.mark.slow

PLOTS = ["interpolation.png", "loss_curves.png", "reconstructions.png", "samples.png"]


def final_state(config, workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        like = steps.abstract_state(settings_of(config))
        return checkpoints.restore_latest(like, devices.single_device())[0]


def test_a_run_learns_and_leaves_everything(small_config, trained_run):
    workdir = trained_run
    rows = read_rows(workdir / "metrics.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [40, 80]
    assert rows[1]["validation_loss"] < rows[0]["validation_loss"] < 784 * math.log(2)
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    for row in rows:
        total = row["train_reconstruction"] + row["train_kl"]
        assert math.isclose(row["train_loss"], total, rel_tol=1e-5)
        assert row["learning_rate"] == pytest.approx(small_config.train.learning_rate)
        assert row["gradient_norm"] > 0.0
        assert "kl_weight" not in row  # without a warmup it never changes
    assert sorted(path.name for path in (workdir / "plots").iterdir()) == PLOTS
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["best_epoch"] == summary["epochs_trained"] == 2
    assert summary["validation"]["loss"] == rows[1]["validation_loss"]
    assert abs(summary["test"]["loss"] - summary["validation"]["loss"]) < 20
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"] == json.loads(json.dumps(small_config.to_dict()))
    assert record["data_sha256"] == datasets.load("mnist_5k").sha256
    assert record["class_names"] == [*"0123456789"]
    assert record["evaluation_binarization_seed"] is None
    assert list(workdir.glob("events.out.tfevents.*"))
    assert "tensorflow" not in sys.modules
    # Better than the best picture that does not look at the image: the mean of the pixels.
    mean = datasets.load("mnist_5k").train.images.mean(0) / 255.0
    test = datasets.load("mnist_5k").test.images / 255.0
    clipped = np.clip(mean, 1e-3, 1 - 1e-3)
    cross_entropy = -(test * np.log(clipped) + (1 - test) * np.log(1 - clipped)).sum((1, 2)).mean()
    assert summary["test"]["loss"] < cross_entropy + 5


def test_a_complete_run_is_not_trained_again(small_config, copied_run, capsys):
    workdir = copied_run
    before = (workdir / "metrics.csv").read_bytes()
    train.train_and_evaluate(small_config, workdir)
    assert "the run is complete" in capsys.readouterr().out
    assert (workdir / "metrics.csv").read_bytes() == before


def test_an_interrupted_run_ends_as_if_it_had_not_been(
    small_config, trained_run, tmp_path, interrupt_save_of_step, capsys
):
    workdir = tmp_path / "interrupted"
    interrupt_save_of_step(80)  # the row of epoch 2 is written, its checkpoint is not
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(small_config, workdir)
    assert not (workdir / "summary.json").exists()
    # A summary of what there is so far must not pass for a complete run's.
    evaluate.evaluate(RunDirectory.open(workdir))
    assert "best epoch 1 of 1:" in capsys.readouterr().out
    train.train_and_evaluate(small_config, workdir)
    output = capsys.readouterr().out
    assert "resuming after epoch 1 of 2" in output
    assert "epoch 2/2: train" in output  # a line an epoch where there is no terminal
    assert rows_without_timing(workdir) == rows_without_timing(trained_run)
    assert_trees_equal(final_state(small_config, workdir), final_state(small_config, trained_run))


def test_modes_of_a_trained_run(copied_run, capsys):
    workdir = copied_run
    summary = (workdir / "summary.json").read_bytes()
    samples = (workdir / "plots" / "samples.png").read_bytes()
    for path in [workdir / "summary.json", *(workdir / "plots").iterdir()]:
        path.unlink()
    run = RunDirectory.open(workdir)
    sample.sample(run)
    images = np.load(workdir / "samples.npy")
    assert images.shape == (100, 28, 28, 1)
    assert images.dtype == np.float32
    assert 0 <= images.min() < 0.1 < 0.5 < images.max() <= 1
    interpolate.interpolate(run)
    assert (workdir / "plots" / "interpolation.png").exists()
    assert not (workdir / "summary.json").exists()
    evaluate.evaluate(run)
    assert "best epoch 2 of 2" in capsys.readouterr().out
    assert (workdir / "summary.json").read_bytes() == summary
    assert (workdir / "plots" / "samples.png").read_bytes() == samples


def test_a_second_evaluation_compiles_nothing(trained_run):
    data, run = to_batch(datasets.load("mnist_5k").test), RunDirectory.open(trained_run)
    first, second = (restore_best(run).replicas[0] for _ in range(2))
    [terms] = evaluate_split(first.settings, first.params, first.root_key, data)
    generation.reconstruct(first.model, first.params, data)
    root_key = second.root_key
    with jax.no_tracing():  # what is not traced is not compiled
        assert [terms] == evaluate_split(second.settings, second.params, root_key, data)
        generation.reconstruct(second.model, second.params, data)


def test_parameters_are_restored_without_an_optimizer(trained_run, monkeypatch):
    monkeypatch.setattr(settings, "create_optimizer", None)
    monkeypatch.setattr(optax, "adam", None)
    replica = restore_best(RunDirectory.open(trained_run)).replicas[0]
    summary = read_record(trained_run / SUMMARY_NAME, Summary)
    data = to_batch(datasets.load("mnist_5k").test)
    [terms] = evaluate_split(replica.settings, replica.params, replica.root_key, data)
    assert terms == summary.test


def test_evaluation_counts_every_image_once(small_config):
    evaluation = settings_of(small_config).evaluation
    state = steps.initial_state(settings_of(small_config), seed=0)
    images = datasets.load("mnist_5k").test.images
    # 500 a batch: one whole, and one of three images.
    data = Batch(np.concatenate([images, 255 - images[:3]]))
    [means] = evaluate_split(evaluation, state.params, state.root_key, data)
    singly = [
        evaluate_batch(
            evaluation, state.params, state.root_key, data[start:stop], np.arange(start, stop)
        )
        for start, stop in ((0, 200), (200, 400), (400, 503))
    ]
    losses = np.concatenate([np.asarray(terms["loss"], np.float64) for terms in singly])
    assert len(losses) == 503
    np.testing.assert_allclose(means["loss"], losses.mean(), atol=1e-4, rtol=0)
    assert abs(means["loss"] - losses[:500].mean()) > 5e-4  # the last three count


def test_binarized_data_have_a_likelihood(small_config, tmp_path, capsys):
    small_config.data.binarization = "dynamic"
    small_config.train.num_epochs = 1
    train.train_and_evaluate(small_config, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["evaluation_binarization_seed"] == datasets.EVALUATION_BINARIZATION_SEED
    # The number of samples is no part of the run: it may be another.
    run = RunDirectory.open(tmp_path / "run")
    evaluate.evaluate(run.with_overrides({"evaluate.num_importance_samples": 20}))
    summary, evaluation = (
        json.loads((tmp_path / "run" / name).read_text())
        for name in ("summary.json", "evaluation.json")
    )
    measured = evaluation["likelihood"]
    assert measured["num_images"] == 500
    assert measured["num_importance_samples"] == 20
    assert measured["binarization_seed"] == datasets.EVALUATION_BINARIZATION_SEED
    # Twenty samples an image against one, and their KL in closed form: the same bound.
    assert measured["negative_elbo"] == pytest.approx(summary["test"]["loss"], abs=1.0)
    assert measured["negative_log_likelihood"] < measured["negative_elbo"] - 1.0
    assert 1.0 < measured["effective_sample_size"] < 20.0
    line = f"test -log p(x) {measured['negative_log_likelihood']:.2f} ± "
    assert line in capsys.readouterr().out
    posterior = evaluation["posterior"]
    assert sum(posterior["kl_per_dimension"]) == pytest.approx(summary["test"]["kl"], rel=1e-4)
    assert len(posterior["aggregate_mean"]) == len(posterior["aggregate_variance"]) == 8


def test_the_bound_takes_over_after_the_epochs_of_the_elbo(
    small_config, tmp_path, interrupt_save_of_step
):
    small_config.data.binarization = "dynamic"
    small_config.loss.kl_warmup_steps = 40
    train.train_and_evaluate(small_config, tmp_path / "elbo")
    small_config.loss.num_importance_samples = 5
    small_config.loss.elbo_warmup_epochs = 1
    train.train_and_evaluate(small_config, tmp_path / "bound")
    plain, bound = (rows_without_timing(tmp_path / name) for name in ("elbo", "bound"))
    assert bound[0] == plain[0]
    # The weight of the KL grows over the epoch of the ELBO, and the bound has none.
    assert plain[0]["kl_weight"] == pytest.approx(39 / 2 / 40)
    assert plain[1]["kl_weight"] == 1.0
    assert "kl_weight" not in bound[1]
    row = read_rows(tmp_path / "bound" / "metrics.csv")[1]
    for split in ("train", "validation"):
        gap = row[f"{split}_reconstruction"] + row[f"{split}_kl"] - row[f"{split}_loss"]
        assert 0.5 < gap < 10.0
    summary = json.loads((tmp_path / "bound" / "summary.json").read_text())
    assert summary["best_epoch"] == 2
    assert summary["validation"]["loss"] == row["validation_loss"]
    # Interrupted at the change, it goes on with the bound.
    interrupt_save_of_step(80)
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(small_config, tmp_path / "interrupted")
    train.train_and_evaluate(small_config, tmp_path / "interrupted")
    assert rows_without_timing(tmp_path / "interrupted") == bound


def test_a_collapsed_posterior_is_warned_of(small_config, tmp_path, capsys):
    small_config.train.num_epochs = 1
    small_config.loss.kl_weight = 1000.0
    train.train_and_evaluate(small_config, tmp_path / "run")
    evaluate.evaluate(RunDirectory.open(tmp_path / "run"))
    assert "warning: the posterior has collapsed, only 0 of 8" in capsys.readouterr().err
    assert "likelihood" not in json.loads((tmp_path / "run" / "evaluation.json").read_text())


def test_a_warmup_longer_than_the_run_is_warned_of(small_config, capsys):
    small_config.loss.kl_warmup_steps = 80
    train._warn_of_long_warmup(small_config, 4000)
    assert capsys.readouterr().err == ""
    small_config.loss.kl_warmup_steps = 81
    train._warn_of_long_warmup(small_config, 4000)
    assert capsys.readouterr().err == (
        "warning: loss.kl_warmup_steps is 81, and the run has 80 steps: loss.kl_weight is never "
        "reached\n"
    )


def test_a_batch_larger_than_the_split(small_config, tmp_path):
    small_config.train.batch_size = 4001
    with pytest.raises(UserError, match=r"train.batch_size is 4001, must be at most 4000"):
        train.train_and_evaluate(small_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("elbo_warmup_epochs", "most"), [(0, 0), (1, 40)])
def test_the_warm_up_ends_before_the_bound(small_config, tmp_path, elbo_warmup_epochs, most):
    small_config.loss.num_importance_samples = 5
    small_config.loss.elbo_warmup_epochs = elbo_warmup_epochs
    small_config.loss.kl_warmup_steps = most + 1
    message = f"loss.kl_warmup_steps is {most + 1}, must be at most {most} where "
    with pytest.raises(UserError, match=message):
        train.train_and_evaluate(small_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(small_config, tmp_path):
    small_config.train.learning_rate = 1e30
    with pytest.raises(UserError, match=r"at step 2, in epoch 1, at train.learning_rate 1e\+30:"):
        train.train_and_evaluate(small_config, tmp_path / "run")
    assert read_rows(tmp_path / "run" / "metrics.csv") == []


@pytest.mark.slow
def test_a_run_trained_longer_is_one_that_was_meant_to_be(small_config, trained_run, tmp_path):
    small_config.train.num_epochs = 1
    train.train_and_evaluate(small_config, tmp_path)
    small_config.train.num_epochs = 2
    train.train_and_evaluate(small_config, tmp_path)
    assert_same_run(tmp_path, trained_run)
    record, expected = (
        json.loads((f / "config.json").read_text()) for f in (tmp_path, trained_run)
    )
    assert record == expected
    small_config.train.num_epochs = 1
    with pytest.raises(UserError, match=r"num_epochs is 2 there, 1 here: a run can be trained for"):
        train.train_and_evaluate(small_config, tmp_path)
    # Parameters alone cannot be trained.
    shutil.rmtree(tmp_path / "checkpoints")
    small_config.train.num_epochs = 3
    with pytest.raises(UserError, match="holds a trained model but no checkpoint to go on from"):
        train.train_and_evaluate(small_config, tmp_path)
    assert [row["epoch"] for row in read_rows(tmp_path / "metrics.csv")] == [1, 2]


@pytest.mark.parametrize("schedule", ["cosine", "burda"])
def test_a_schedule_that_ends_with_the_run_cannot_go_on(small_config, tmp_path, schedule):
    small_config.train.learning_rate_schedule = schedule
    record = {"config": small_config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "summary.json").write_text("{}")
    small_config.train.num_epochs = 3
    message = f"num_epochs is 2 there, 3 here: the {schedule} schedule depends on the number of ep"
    with pytest.raises(UserError, match=message):
        train.train_and_evaluate(small_config, tmp_path)


def test_a_run_without_a_checkpoint_cannot_be_sampled(trained_run, tmp_path):
    shutil.copy(trained_run / "config.json", tmp_path)
    with pytest.raises(UserError, match="holds no finished epoch yet"):
        sample.sample(RunDirectory.open(tmp_path))


def test_a_run_that_begins_at_the_mean_is_ahead_in_its_first_steps(
    small_config, trained_run, tmp_path
):
    small_config.train.num_epochs = 1
    small_config.output_bias_init = "data_mean"
    train.train_and_evaluate(small_config, tmp_path / "run")
    ahead, plain = (
        read_rows(folder / "metrics.csv")[0]["train_loss"]
        for folder in (tmp_path / "run", trained_run)
    )
    assert ahead < plain - 5.0
