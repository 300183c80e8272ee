"""Runs that end within an epoch and resume, those of older versions too."""

import json
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import older_versions
from tests.support.common import assert_trees_equal, settings_of
from vae_jax import datasets
from vae_jax.datasets import Split
from vae_jax.model import losses
from vae_jax.runtime import devices
from vae_jax.runtime.files import write_json
from vae_jax.runtime.interrupts import Interrupted, Request
from vae_jax.training import run_directory, steps
from vae_jax.training.batches import to_batch
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.metrics import TERMS, read_rows
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.trainer import Trainer

NUM_STEPS = 40  # an epoch of 4,000 images
NUMBERS = ("gradient_norm", "learning_rate")


class StopWithinAnEpoch:
    """A request to end that comes when it is asked for the second time."""

    def __init__(self):
        self._times_asked = 0

    @property
    def signal_number(self):
        self._times_asked += 1
        return signal.SIGTERM if self._times_asked > 1 else None


def begin(config, workdir):
    """Makes a run directory without anything trained in it."""
    dataset = datasets.load(**config.data)
    record = {"config": run_directory.config_to_record(config)}
    record |= run_directory.provenance("cpu", 1, {}, dataset, None)
    workdir.mkdir()
    write_json(workdir / "config.json", record)


def train(workdir, request):
    """Trains the run from where it is; returns its last state."""
    run = RunDirectory.open(workdir)
    dataset = datasets.load(**run.config.data)
    mesh = devices.make_mesh(run.config.train.num_replicas, run.config.train.batch_size)
    with Checkpoints(workdir) as checkpoints:
        Trainer(run, dataset, checkpoints, mesh, request).run()
    return restore(run)[0]


def restore(run):
    like = steps.abstract_state(settings_of(run.config, NUM_STEPS))
    with Checkpoints(run.path) as checkpoints:
        return checkpoints.restore_latest(like, devices.single_device())


def without_speed(rows):
    return [
        {name: value for name, value in row.items() if name != "images_per_second"} for row in rows
    ]


@pytest.fixture
def config(small_config):
    """One epoch, with a schedule and a warmup, so that its numbers differ from step to step."""
    small_config.train.num_epochs = 1
    small_config.train.learning_rate_schedule = "cosine"
    small_config.loss.kl_warmup_steps = 100
    return small_config


@pytest.fixture
def interrupted_run(config, tmp_path):
    """A run that ended within its first epoch."""
    workdir = tmp_path / "interrupted"
    begin(config, workdir)
    with pytest.raises(Interrupted, match=r"saved after step \d+, epoch 0 of 1 and a part"):
        train(workdir, StopWithinAnEpoch())
    return workdir


def test_an_epoch_in_two_parts_has_the_row_of_a_whole_one(
    config, interrupted_run, tmp_path, capsys
):
    whole, resumed = tmp_path / "whole", interrupted_run
    begin(config, whole)
    older = tmp_path / "older"
    shutil.copytree(interrupted_run, older)
    older_versions.rewrite_run(older)
    capsys.readouterr()
    _, progress = restore(RunDirectory.open(resumed))
    num_before = len(progress.steps)
    assert 0 < num_before < NUM_STEPS
    states = {workdir: train(workdir, Request()) for workdir in (whole, resumed, older)}
    assert capsys.readouterr().out.count(f"resuming after step {num_before}, epoch 0 of 1") == 2
    for workdir in (resumed, older):
        assert_trees_equal(states[workdir], states[whole])
    [expected], [row], [older_row] = (
        without_speed(read_rows(workdir / "metrics.csv")) for workdir in (whole, resumed, older)
    )
    assert row == expected
    rates = 0.0015 * (1.0 + np.cos(np.pi * np.arange(NUM_STEPS) / NUM_STEPS))
    weights = np.arange(NUM_STEPS) / 100
    assert row["learning_rate"] == pytest.approx(rates.mean(), rel=1e-5)
    assert row["kl_weight"] == pytest.approx(weights.mean(), rel=1e-5)
    assert row["gradient_norm"] > 0.0
    # An older version did not note its steps' numbers: they are those of the steps since.
    assert older_row.keys() - expected.keys() == set()
    names = [f"{split}_{term}" for split in ("train", "validation") for term in TERMS]
    assert [older_row[name] for name in names] == [expected[name] for name in names]
    assert older_row["learning_rate"] == pytest.approx(rates[num_before:].mean(), rel=1e-5)
    assert older_row["kl_weight"] == pytest.approx(weights[num_before:].mean(), rel=1e-5)


def test_a_run_of_an_older_version_is_trained_further(copied_run, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(copied_run, older)
    older_versions.rewrite_run(older)
    states = []
    for workdir in (copied_run, older):
        record = json.loads((workdir / "config.json").read_text())
        record["config"]["train"]["num_epochs"] = 3
        write_json(workdir / "config.json", record)
        states.append(train(workdir, Request()))
    assert_trees_equal(*states)
    expected, rows = (
        without_speed(read_rows(workdir / "metrics.csv")) for workdir in (copied_run, older)
    )
    assert rows[2] == expected[2]
    for row, other in zip(rows[:2], expected[:2], strict=True):
        assert row == {name: value for name, value in other.items() if name not in NUMBERS}
    header, *lines = (older / "metrics.csv").read_text().splitlines()
    assert header.endswith(",images_per_second,gradient_norm,learning_rate")
    assert [line.endswith(",,") for line in lines] == [True, True, False]


def test_a_further_term_needs_only_to_be_computed(small_config, tmp_path, monkeypatch):
    negative_elbo = losses.negative_elbo

    def with_weighted_kl(log_likelihood, kl, kl_weight=1.0):
        terms = negative_elbo(log_likelihood, kl, kl_weight)
        return terms | {"weighted_kl": terms["loss"] - terms["reconstruction"]}

    monkeypatch.setattr(losses, "negative_elbo", with_weighted_kl)
    small_config.train.num_epochs = 1
    small_config.loss.kl_weight = 0.3  # as no other test has it: nothing is compiled yet
    begin(small_config, tmp_path / "run")
    train(tmp_path / "run", Request())
    [row] = read_rows(tmp_path / "run" / "metrics.csv")
    for split in ("train", "validation"):
        expected = 0.3 * row[f"{split}_kl"]
        assert row[f"{split}_weighted_kl"] == pytest.approx(expected, rel=1e-3)
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert ",train_kl,train_weighted_kl,validation_loss," in header


def test_labels_go_to_the_device_as_indices_where_there_are_some():
    images = np.zeros((3, 2, 2, 1), np.uint8)
    batch = to_batch(Split(images, np.array([2, 0, 1], np.int64)))
    assert batch.images is images
    assert batch.labels.dtype == np.int32
    np.testing.assert_array_equal(batch.labels, [2, 0, 1])
    assert to_batch(Split(images, None)).labels is None
    assert jnp.asarray(batch.labels).dtype == jnp.int32
