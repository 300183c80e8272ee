"""Faults of the machine, provoked for real: one line is printed, and nothing is lost."""

import contextlib
import dataclasses
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import processes
from tests.support.common import error_of, full_disk, settings_of
from tests.support.reading import rows_without_timing
from vae_jax import datasets, sample, train
from vae_jax.evaluation import plots
from vae_jax.model.likelihoods import Bernoulli
from vae_jax.model.rng_streams import make_root_key
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.system_errors import system_errors_as_user_errors
from vae_jax.training import run_directory, steps, trainer
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.metrics import MetricsWriter, read_rows
from vae_jax.training.run_directory import RunDirectory


def run(config, workdir):
    with system_errors_as_user_errors(config.train.batch_size, config.train.num_replicas):
        train.train_and_evaluate(config, workdir)


def failing_on_call(monkeypatch, owner, name, number, fault):
    """Makes one call of a function happen under a fault."""
    function, calls = getattr(owner, name), []

    def wrapped(*arguments):
        calls.append(1)
        with fault() if len(calls) == number else contextlib.nullcontext():
            return function(*arguments)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (MetricsWriter, "write", 2),
        (Checkpoints, "save", 2),
        (plots, "save_reconstructions", 1),
    ],
    ids=["metrics", "checkpoint", "plot"],
)
def test_a_full_disk_stops_the_run_which_resumes_later(
    make_tiny_config, tmp_path, tiny_run, monkeypatch, owner, name, number
):
    failing_on_call(monkeypatch, owner, name, number, lambda: full_disk(64))
    with pytest.raises(UserError, match="File too large; everything saved before is intact"):
        run(make_tiny_config(), tmp_path)
    assert not (tmp_path / "summary.json").exists()
    rows = read_rows(tmp_path / "metrics.csv")  # complete rows, whatever happened
    assert [row["epoch"] for row in rows] == [1, 2][: 1 if owner is MetricsWriter else 2]
    run(make_tiny_config(), tmp_path)
    processes.assert_same_run(tmp_path, tiny_run)


@pytest.mark.slow
def test_the_run_directory_deleted_under_the_run(make_tiny_config, tmp_path, monkeypatch):
    workdir = tmp_path / "run"

    def delete():
        return contextlib.nullcontext(shutil.rmtree(workdir))

    failing_on_call(monkeypatch, trainer, "train_one_epoch", 2, delete)
    with pytest.raises(UserError, match=f"{workdir}.*No such file or directory"):
        run(make_tiny_config(), workdir)
    assert not workdir.exists()


def test_a_run_directory_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    error = error_of(run_directory.check_workdir, tmp_path / "run")
    assert f"{tmp_path} is not writable; give another folder" in error


@pytest.mark.slow
def test_too_little_memory_names_the_fields_to_lower(tmp_path, make_tiny_config):
    fields = {"latent_size": 50, "decoder.dense_sizes": (2_000_000_000,)}  # 400 GB
    with pytest.raises(UserError, match=r"too little memory for train\.batch_size 20"):
        run(make_tiny_config(**fields), tmp_path / "run")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_at_its_step(
    make_tiny_config, tmp_path, monkeypatch, without_report
):
    train_settings = trainer.train_settings

    def diverging(*arguments):
        settings = train_settings(*arguments)
        # The update of step 10, in epoch 2, is infinite: step 11 is the first to see it.
        factor = optax.scale_by_schedule(lambda count: jnp.where(count == 9, jnp.inf, 1.0))
        optimizer = optax.chain(settings.optimizer, factor)
        return dataclasses.replace(settings, optimizer=optimizer)

    monkeypatch.setattr(trainer, "train_settings", diverging)
    with pytest.raises(
        UserError, match=r"not finite at step 11, in epoch 2: lower .* is 0\.003, or"
    ):
        run(make_tiny_config(), tmp_path)
    assert [row["epoch"] for row in rows_without_timing(tmp_path)] == [1]
    sample.sample(RunDirectory.open(tmp_path))
    assert np.isfinite(np.load(tmp_path / "samples.npy")).all()


@pytest.fixture
def infinite_gradient(monkeypatch):
    """Gives images whose first pixel is lit, as none of MNIST's is, an infinite gradient."""
    log_prob = Bernoulli.log_prob

    def wrapped(likelihood, outputs, images):
        lit = images[:, 0, 0, 0] > 0
        # The square root is finite at 0, its derivative is not.
        root = jnp.sqrt(jnp.where(lit, 0.0 * outputs[:, 5, 5, 0], 1.0))
        return log_prob(likelihood, outputs, images) + root - jax.lax.stop_gradient(root)

    monkeypatch.setattr(Bernoulli, "log_prob", wrapped)
    jax.clear_caches()  # of programs compiled with the other one
    yield
    monkeypatch.undo()
    jax.clear_caches()


def light_first_pixel(config, image):
    dataset = datasets.load(**config.data)
    images = dataset.train.images.copy()
    images[image, 0, 0] = 255
    assert not dataset.train.images[:, 0, 0].any()
    return dataclasses.replace(dataset, train=datasets.Split(images, dataset.train.labels))


@pytest.mark.slow
@pytest.mark.parametrize("num_replicas", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_an_infinite_gradient_of_a_finite_loss_is_seen(
    make_tiny_config, tmp_path, monkeypatch, without_report, infinite_gradient, num_replicas
):
    config = make_tiny_config(**{"train.num_replicas": num_replicas, "train.num_epochs": 1})
    keys = [make_root_key(config.seed + index) for index in range(num_replicas)]
    order = np.stack(
        [steps.epoch_order(settings_of(make_tiny_config()), key, 1, 140) for key in keys]
    )
    image = int(order[-1, 50])  # in step 3 of the last replica
    dataset = light_first_pixel(config, image)
    monkeypatch.setattr(train.datasets, "load", lambda **data: dataset)
    step = min(np.flatnonzero(one == image)[0] for one in order) // 20 + 1
    with pytest.raises(UserError, match=f"gradient is not finite at step {step}, in epoch 1"):
        run(config, tmp_path / "stopped")

    config.train.skip_nonfinite = True
    run(config, tmp_path / "skipping")
    for folder in RunDirectory.open(tmp_path / "skipping").replica_folders:
        [row] = read_rows(folder / "metrics.csv")
        assert row["skipped_updates"] == 1
        assert row["validation_loss"] < 43


def test_a_value_that_is_not_finite_is_seen_wherever_it_is():
    gradients = {"kernel": np.full((3, 4), 3e38, np.float32), "bias": np.full(5, 1e-45, np.float32)}
    check = jax.jit(steps._all_finite)
    assert check(1.0, gradients)
    for value in (np.inf, -np.inf, np.nan):
        assert not check(value, gradients)
        for name, leaf in gradients.items():
            for index in range(leaf.size):
                changed = leaf.copy()
                changed.flat[index] = value
                assert not check(1.0, gradients | {name: changed}), (value, name, index)
