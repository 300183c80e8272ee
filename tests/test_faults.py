"""Faults of the machine, provoked for real: one line is printed, and nothing is lost."""

import contextlib
import dataclasses
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import processes
from tests.support.common import error_of, full_disk
from vae_jax import sample, train
from vae_jax.evaluation import summary
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.system_errors import system_errors_as_user_errors
from vae_jax.training import run_directory, steps, trainer
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.metrics import MetricsWriter, read_rows
from vae_jax.training.run_directory import RunDirectory


def run(config, workdir):
    with system_errors_as_user_errors(config.train.batch_size):
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
        (summary, "save_reconstructions", 1),
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


def loss_not_finite(settings, params, batch, root_key, step):
    loss, (terms, numbers) = steps._objective_loss(settings, params, batch, root_key, step)
    return loss, (terms | {"loss": jnp.where(step == 9, jnp.inf, terms["loss"])}, numbers)


def gradient_not_finite(settings, params, batch, root_key, step):
    loss, rest = steps._objective_loss(settings, params, batch, root_key, step)
    # The square root is finite at 0, its derivative is not.
    root = jnp.sqrt(jnp.where(step == 9, 0.0 * jax.tree.leaves(params)[0].sum(), 1.0))
    return loss + root - jax.lax.stop_gradient(root), rest


@pytest.mark.slow
@pytest.mark.parametrize("num_replicas", [1, pytest.param(2, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("loss", [loss_not_finite, gradient_not_finite])
def test_a_step_that_is_not_finite_ends_the_run_or_is_skipped(
    make_tiny_config, tmp_path, monkeypatch, without_report, loss, num_replicas
):
    settings_of = trainer.train_settings
    monkeypatch.setattr(
        trainer, "train_settings", lambda *args: dataclasses.replace(settings_of(*args), loss=loss)
    )
    config = make_tiny_config(**{"train.num_replicas": num_replicas})
    expected = r"gradient is not finite at step 10, in epoch 2: lower .* is 0\.003, or set"
    with pytest.raises(UserError, match=expected):
        run(config, tmp_path / "stopped")
    assert [row["epoch"] for row in processes.rows_without_timing(tmp_path / "stopped")] == [1]
    sample.sample(RunDirectory.open(tmp_path / "stopped"))
    config.train.skip_nonfinite = True
    run(config, tmp_path / "skipping")
    for folder in RunDirectory.open(tmp_path / "skipping").replica_folders:
        rows = read_rows(folder / "metrics.csv")
        assert [row["skipped_updates"] for row in rows] == [0, 1]
        assert rows[1]["validation_loss"] < rows[0]["validation_loss"]


def test_a_gradient_that_is_not_finite_is_seen_wherever_it_is():
    shapes_and_values = {"kernel": ((3, 4), 1e18), "bias": (5, 1e-45), "scale": ((), 0.0)}
    gradients = {name: np.full(*each, np.float32) for name, each in shapes_and_values.items()}
    norm = jax.jit(steps.gradient_norm)
    np.testing.assert_allclose(norm(gradients), np.sqrt(12) * 1e18, rtol=1e-6)
    for value in (np.inf, -np.inf, np.nan):
        for name, leaf in gradients.items():
            for index in range(leaf.size):
                changed = leaf.copy()
                changed.flat[index] = value
                assert not np.isfinite(norm(gradients | {name: changed})), (value, name, index)
