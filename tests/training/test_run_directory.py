"""The record of a run, and runs that a run directory refuses."""

import errno
import json
import os
from pathlib import Path

import pytest

from configs import default
from tests.support.common import error_of
from vae_jax import configuration, datasets, train
from vae_jax.runtime import locks
from vae_jax.runtime.files import write_json
from vae_jax.training import run_directory
from vae_jax.training.run_directory import RunDirectory

RECORD = {
    "config": default.get_config().to_dict(),
    "data_sha256": "abc",
    "image_shape": [28, 20, 3],
    "class_names": ["a", "b"],
}


@pytest.fixture
def workdir(tmp_path):
    """A run directory that holds a run of the default configuration."""
    write_json(tmp_path / "config.json", RECORD)
    return tmp_path


def changed(**fields):
    """The default configuration with fields changed; `__` stands for a dot."""
    overrides = {name.replace("__", "."): value for name, value in fields.items()}
    return configuration.from_dict(RECORD["config"], overrides)


def test_a_run_is_read_once(workdir):
    run = RunDirectory.open(workdir)
    (workdir / "config.json").unlink()
    assert (os.fspath(run), run.path, run.parent) == (str(workdir), workdir, None)
    assert run.record == json.loads(json.dumps(RECORD))
    assert run.config.to_dict() == RECORD["config"]
    assert run.spec == datasets.DataSpec((28, 20, 3), ("a", "b"))
    assert run.replica_folders == [workdir]


def test_a_record_of_an_older_version_has_defaults(tmp_path):
    config = changed(seed=3, train__num_replicas=2).to_dict()
    record = {"config": config, "image_shape": [28, 28, 1], "prior_fitted_to": "/runs/other"}
    del config["decoder"]["kind"], config["condition"]
    write_json(tmp_path / "config.json", record)
    run = RunDirectory.open(tmp_path)
    assert run.config.to_dict() == changed(seed=3, train__num_replicas=2).to_dict()
    assert run.spec == datasets.DataSpec((28, 28, 1))
    assert run.replica_folders == [tmp_path / "replicas" / f"seed_{seed}" for seed in (3, 4)]
    assert run.parent == "/runs/other"


@pytest.mark.parametrize(
    "changes",
    [
        *({"image_shape": shape} for shape in ([28, 28], [28, 28, "1"], {"height": 28}, [0, 1, 1])),
        {"class_names": "a"},
        {"class_names": [1]},
    ],
)
def test_a_record_without_valid_images_is_damaged(tmp_path, changes):
    write_json(tmp_path / "config.json", RECORD | changes)
    error = error_of(lambda: RunDirectory.open(tmp_path).spec)
    assert "config.json: " in error and "damaged" in error


@pytest.mark.parametrize("content", ["", "[]", '{"config": 3}', "[" * 300 + "3" + "]" * 300, None])
def test_a_damaged_config_or_none_is_an_error(tmp_path, content):
    if content is None:
        assert "holds no run" in error_of(RunDirectory.open, tmp_path)
        return
    (tmp_path / "config.json").write_text(content)
    error = error_of(RunDirectory.open, tmp_path)
    assert "config.json: " in error and "damaged" in error


def test_fields_that_do_not_identify_a_run_or_are_in_a_named_group_can_be_changed(workdir):
    run = RunDirectory.open(workdir)
    other = run.with_overrides({"evaluate.num_importance_samples": 7, "data.path": None})
    assert other.config.evaluate.num_importance_samples == 7
    assert run.config.evaluate.num_importance_samples != 7
    assert (other.path, other.record) == (run.path, run.record)
    assert "latent_size is 64 there, 3 here" in error_of(run.with_overrides, {"latent_size": 3})
    mixture = changed(prior__kind="mixture")
    assert run.with_config(mixture, ("prior",)).config.prior.kind == "mixture"
    assert "prior.kind is 'standard_normal' there" in error_of(run.with_config, mixture)
    assert "seed is 0 there, 3 here" in error_of(run.with_config, changed(seed=3), ("prior",))


def test_a_run_resumes_with_the_same_configuration_or_more_epochs(workdir):
    run_directory.check_workdir(workdir)
    run = RunDirectory.open(workdir)
    epochs = run.config.train.num_epochs
    run_directory.check_resumes(run, changed(data__manual_dir="/elsewhere"))
    run_directory.check_resumes(run, changed(train__num_epochs=epochs + 1))
    error = error_of(run_directory.check_resumes, run, changed(seed=3, encoder__dense_sizes=(1, 3)))
    assert "encoder.dense_sizes is (512, 256) there, (1, 3) here; seed is 0 there, 3 here" in error
    # A schedule of the learning rate depends on the number of epochs.
    cosine = changed(train__learning_rate_schedule="cosine")
    scheduled = RunDirectory(workdir, run.record, cosine)
    run_directory.check_resumes(scheduled, cosine)
    longer = changed(train__learning_rate_schedule="cosine", train__num_epochs=epochs + 1)
    for refused, config in ((scheduled, longer), (run, changed(train__num_epochs=epochs - 1))):
        error = error_of(run_directory.check_resumes, refused, config)
        assert f"num_epochs is {epochs} there" in error


def test_checkpoints_of_all_versions_are_seen(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".partial.x").touch()
    assert not run_directory.has_checkpoint(tmp_path)
    for name in ("40", "40.safetensors", "damaged_40", "damaged_40.safetensors"):
        (tmp_path / "checkpoints" / name).touch()
        assert run_directory.has_checkpoint(tmp_path)
        (tmp_path / "checkpoints" / name).unlink()


def test_other_data_is_refused(workdir):
    run = RunDirectory.open(workdir)
    run_directory.check_same_data(run, "abc")
    assert "SHA-256 abc, this is def" in error_of(run_directory.check_same_data, run, "def")


def test_a_folder_is_new_or_empty_and_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "a" / "b", Path("a"), Path("a\\b[*]?")):
        run_directory.check_workdir(path)
    assert os.listdir(tmp_path) == []
    (tmp_path / ".lock").touch()
    run_directory.check_workdir(tmp_path)
    (tmp_path / "a").touch()
    assert "it holds a; give a new folder" in error_of(run_directory.check_workdir, tmp_path)
    for path in (tmp_path / "a", tmp_path / "a" / "below"):
        assert "is a file; give another folder" in error_of(run_directory.check_workdir, path)


def test_the_environment_is_recorded_and_its_changes_are_named(small_config, tmp_path):
    dataset = datasets.load("mnist_5k")
    record = train._provenance(small_config, dataset)
    assert set(record["versions"]) == {"jax", "jaxlib", "flax", "optax", "numpy"}
    assert record["data_sha256"] == dataset.sha256
    assert record["class_names"] == [str(digit) for digit in range(10)]
    assert record["split_seed"] is record["evaluation_binarization_seed"] is None
    del record["cores"]  # as in an older record
    run = RunDirectory(tmp_path, json.loads(json.dumps(record)), small_config)
    assert run_directory.environment_changes(run, record | {"cores": 2}) == []
    other = record | {"versions": record["versions"] | {"jax": "2"}, "device_kind": "other"}
    found = run_directory.environment_changes(run, other)
    assert [change.split()[0] for change in found] == ["versions.jax", "device_kind"]


def test_where_the_data_lie_is_recorded_as_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = default.get_config()
    config.data.manual_dir, config.data.path = "files", "~/photos"
    recorded = run_directory.config_to_record(config)["data"]
    assert recorded["manual_dir"] == str(tmp_path / "files")
    assert recorded["path"] == str(Path.home() / "photos")
    assert config.data.manual_dir == "files"  # as it was given


def lock(workdir, *arguments):
    with run_directory.locked(workdir, *arguments):
        return os.listdir(workdir)


def test_a_file_system_without_locks_can_be_used(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    error = error_of(lock, tmp_path)
    assert os.strerror(errno.ENOLCK) in error and "--nolock_workdir" in error
    (tmp_path / ".partial.x").touch()
    assert lock(tmp_path, False) == [".lock"]


def test_the_folder_of_another_process_is_refused(tmp_path):
    with run_directory.locked(tmp_path):
        assert f"process {os.getpid()} on " in error_of(lock, tmp_path)
