"""What an error tells the user to do, done: it works."""

import re
import shutil

import jax
import pytest

from tests.support import processes
from tests.support.common import MNIST_DIR, needs_mnist
from vae_jax import train
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import read_json
from vae_jax.runtime.system_errors import system_errors_as_user_errors
from vae_jax.training import trainer

pytestmark = pytest.mark.nightly


@pytest.fixture
def config(small_config):
    small_config.train.num_epochs = 1
    small_config.train.batch_size = 500
    return small_config


def error_of_training(config, workdir):
    """The one line that training ends with."""
    with pytest.raises(UserError) as error, system_errors_as_user_errors(config.train.batch_size):
        train.train_and_evaluate(config, workdir)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_trains(config, workdir):
    train.train_and_evaluate(config, workdir)
    record = read_json(workdir / "config.json")["config"]
    assert record["train"]["learning_rate"] == config.train.learning_rate
    assert record["train"]["batch_size"] == config.train.batch_size
    assert (workdir / "summary.json").exists()


@pytest.mark.parametrize("advice", ["lower train.learning_rate", "skip_nonfinite=True"])
def test_not_finite_before_the_first_checkpoint(config, tmp_path, advice):
    config.train.learning_rate = 1e30
    message = error_of_training(config, tmp_path / "run")
    assert advice in message
    assert "--workdir" not in message
    config.train.learning_rate = 0.001
    config.train.skip_nonfinite = "skip" in advice
    assert_trains(config, tmp_path / "run")


def fail_in_epoch(monkeypatch, epoch, error):
    """Makes training fail there, as a device does."""
    train_one_epoch = trainer.train_one_epoch

    def failing(settings, state, images, number, *rest):
        if number == epoch:
            raise error
        return train_one_epoch(settings, state, images, number, *rest)

    monkeypatch.setattr(trainer, "train_one_epoch", failing)


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (trainer.NotFiniteError(9), "or set --config.train.skip_nonfinite=True"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB"), "lower these, with another"),
    ],
    ids=["not finite", "memory"],
)
def test_other_values_begin_anew_or_elsewhere(config, tmp_path, monkeypatch, epoch, error, advice):
    config.train.num_epochs = 2
    with monkeypatch.context() as patch:
        fail_in_epoch(patch, epoch, error)
        message = error_of_training(config, tmp_path / "run")
    assert advice in message
    config.train.learning_rate /= 2
    config.train.batch_size //= 2
    if epoch == 1:  # in the same place
        assert_trains(config, tmp_path / "run")
        return
    assert "with another --workdir" in message
    refusal = error_of_training(config, tmp_path / "run")
    assert "Use another --workdir, or the same configuration" in refusal
    assert_trains(config, tmp_path / "other")
    config.train.learning_rate *= 2
    config.train.batch_size *= 2
    assert_trains(config, tmp_path / "run")


def test_every_update_skipped(config, tmp_path):
    config.train.skip_nonfinite = True
    config.train.learning_rate, config.loss.kl_weight = 1e30, 1e38
    message = error_of_training(config, tmp_path / "run")
    assert "lower train.learning_rate, which is 1e+30;" in message
    config.train.learning_rate, config.loss.kl_weight = 0.001, 1.0
    assert_trains(config, tmp_path / "run")


def test_the_largest_batch_that_an_error_names(config, tmp_path):
    config.train.batch_size = 4001
    message = error_of_training(config, tmp_path / "run")
    config.train.batch_size = int(re.search(r"must be at most (\d+),", message)[1])
    assert_trains(config, tmp_path / "run")


def test_strides_as_large_as_an_error_allows(config, tmp_path):
    config.decoder.strides = (29,)
    assert "must be at most 28" in error_of_training(config, tmp_path / "run")
    config.decoder.strides = (28,)
    assert_trains(config, tmp_path / "run")


def test_a_folder_that_holds_something_else(config, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    message = error_of_training(config, tmp_path)
    assert "holds notes.txt; give a new folder, or move that out of this one" in message
    shutil.move(tmp_path / "notes.txt", tmp_path.parent / f"{tmp_path.name}_notes.txt")
    assert_trains(config, tmp_path)


@needs_mnist
def test_a_run_used_where_its_data_are_not(config, tmp_path, prepared_mnist):
    config.data.update(name="mnist", data_dir=prepared_mnist)
    config.train.batch_size = 5000
    train.train_and_evaluate(config, tmp_path / "run")
    arguments = ("--mode=interpolate", f"--config.data.data_dir={tmp_path / 'data'}")

    def interpolate(*more):
        nobody = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        return processes.finish(processes.start(tmp_path / "run", *arguments, *more, **nobody))

    status, _, errors = interpolate()
    assert status == 1
    assert "--config.data.manual_dir=FOLDER" in errors
    status, _, errors = interpolate(f"--config.data.manual_dir={MNIST_DIR}")
    assert (status, errors) == (0, "")
