"""Whole runs on small digits, in this process: they learn, resume and refuse."""

import dataclasses
import json
import math
import shutil
import sys

import jax
import numpy as np
import pytest

from tests.support.common import error_of
from tests.support.processes import assert_same_run
from vae_jax import datasets, evaluate, sample, train
from vae_jax.evaluation import generation
from vae_jax.evaluation import trained_run as trained_runs
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.model.structs import Batch
from vae_jax.runtime.files import read_json
from vae_jax.training.batches import to_batch
from vae_jax.training.metrics import read_rows
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.validation import evaluate_batch, evaluate_split

PLOTS = ["interpolation.png", "loss_curves.png", "reconstructions.png", "samples.png"]


def test_a_run_leaves_everything(make_tiny_config, tiny_run):
    workdir, config = tiny_run, make_tiny_config()
    rows = read_rows(workdir / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 7), (2, 14)]
    for row in rows:
        total = row["train_reconstruction"] + row["train_kl"]
        assert math.isclose(row["train_loss"], total, rel_tol=1e-5)
        assert row["learning_rate"] == pytest.approx(config.train.learning_rate)
        assert row["gradient_norm"] > 0.0
        assert "kl_weight" not in row  # without a warmup it never changes
    assert sorted(path.name for path in (workdir / "plots").iterdir()) == PLOTS
    summary, record = (read_json(workdir / name) for name in ("summary.json", "config.json"))
    assert summary["best_epoch"] == summary["epochs_trained"] == 2
    assert summary["validation"]["loss"] == rows[1]["validation_loss"]
    assert record["config"] == json.loads(json.dumps(config.to_dict()))
    assert record["data_sha256"] == datasets.load(**config.data).sha256
    assert list(workdir.glob("events.out.tfevents.*"))
    assert "tensorflow" not in sys.modules


@pytest.mark.slow
def test_a_run_learns(make_tiny_config, tmp_path, without_report):
    config = make_tiny_config(**{"train.num_epochs": 30})
    train.train_and_evaluate(config, tmp_path)
    rows, dataset = read_rows(tmp_path / "metrics.csv"), datasets.load(**config.data)
    # Better than the best picture that does not depend on the image: the mean of the pixels.
    mean, images = dataset.train.images.mean(0) / 255.0, dataset.validation.images / 255.0
    clipped = np.clip(mean, 1e-3, 1 - 1e-3)
    losses = -(images * np.log(clipped) + (1 - images) * np.log(1 - clipped)).sum((1, 2, 3))
    assert rows[-1]["validation_loss"] < losses.mean() < rows[0]["validation_loss"]


def test_a_second_evaluation_compiles_nothing(make_tiny_config, tiny_run):
    data = to_batch(datasets.load(**make_tiny_config().data).test)
    first, second = (restore_best(RunDirectory.open(tiny_run)).replicas[0] for _ in range(2))
    [terms] = evaluate_split(first.settings, first.params, first.root_key, data)
    generation.reconstruct(first.model, first.params, data)
    root_key = second.root_key
    with jax.no_tracing():  # what is not traced is not compiled
        assert [terms] == evaluate_split(second.settings, second.params, root_key, data)
        generation.reconstruct(second.model, second.params, data)
    assert terms == read_json(tiny_run / "summary.json")["test"]


def test_evaluation_counts_every_image_once(make_tiny_config, tiny_run):
    replica = restore_best(RunDirectory.open(tiny_run)).replicas[0]
    arguments = replica.settings, replica.params, replica.root_key
    images = datasets.load(**make_tiny_config().data).test.images[np.arange(500) % 30]
    # 500 a batch: a full one, and one of three images.
    data = Batch(np.concatenate([images, 255 - images[:3]]))
    [means] = evaluate_split(*arguments, data)
    losses = []
    for start, stop in ((0, 250), (250, 503)):
        rows = np.arange(start, stop)
        losses += np.asarray(evaluate_batch(*arguments, data[rows], rows)["loss"], float).tolist()
    np.testing.assert_allclose(means["loss"], np.mean(losses), atol=1e-5, rtol=0)
    assert abs(means["loss"] - np.mean(losses[:500])) > 1e-3  # the last three count


def test_a_collapsed_posterior_is_warned_of(tiny_run, tmp_path, monkeypatch, capsys):
    restore_to_write = trained_runs.restore_to_write

    def restore_untrained(*arguments):
        run = restore_to_write(*arguments)
        zeros = jax.tree.map(np.zeros_like, run.replicas[0].params)
        replica = dataclasses.replace(run.replicas[0], params=zeros)
        return dataclasses.replace(run, replicas=[replica])

    monkeypatch.setattr(trained_runs, "restore_to_write", restore_untrained)
    evaluate.evaluate(RunDirectory.open(tiny_run), tmp_path)
    assert "the posterior has collapsed, only 0 of 8" in capsys.readouterr().err
    assert "likelihood" not in read_json(tmp_path / "evaluation.json")


@pytest.mark.parametrize("elbo_epochs", [0, 1])
def test_the_warmup_ends_before_the_bound(make_tiny_config, elbo_epochs):
    config = make_tiny_config(**{"loss.num_importance_samples": 5})
    config.loss.elbo_warmup_epochs = elbo_epochs
    config.loss.kl_warmup_steps = most = 7 * elbo_epochs
    dataset = datasets.load(**config.data)
    train._check_against_data(config, dataset)
    config.loss.kl_warmup_steps += 1
    error = error_of(train._check_against_data, config, dataset)
    assert f"loss.kl_warmup_steps is {most + 1}, must be at most {most} " in error


def test_a_run_trained_longer_is_one_that_was_meant_to_be(
    make_tiny_config, tiny_run, tmp_path, capsys
):
    for num_epochs in (1, 2):
        train.train_and_evaluate(make_tiny_config(**{"train.num_epochs": num_epochs}), tmp_path)
    output = capsys.readouterr().out
    assert "resuming after epoch 1 of 2" in output
    assert "epoch 2/2: train" in output  # a line an epoch where there is no terminal
    assert_same_run(tmp_path, tiny_run)
    assert read_json(tmp_path / "config.json") == read_json(tiny_run / "config.json")
    # Parameters alone cannot be trained, and without them nothing can be sampled.
    shutil.rmtree(tmp_path / "checkpoints")
    assert "no finished epoch yet" in error_of(sample.sample, RunDirectory.open(tmp_path))
    config = make_tiny_config(**{"train.num_epochs": 3})
    error = error_of(train.train_and_evaluate, config, tmp_path)
    assert "no checkpoint to resume from" in error
