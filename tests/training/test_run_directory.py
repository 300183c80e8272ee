"""Files that are whole or not there, and what a run directory refuses."""

import dataclasses
import errno
import json
import os
import re
from pathlib import Path

import pytest

from configs import default
from tests.support.common import full_disk
from vae_jax import configuration, datasets, train
from vae_jax.runtime import locks
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_json
from vae_jax.training import run_directory
from vae_jax.training.run_directory import RunDirectory

RECORD = {"config": default.get_config().to_dict(), "data_sha256": "abc"}


@pytest.fixture
def workdir(tmp_path):
    """A run directory that holds a run of the default configuration."""
    write_json(tmp_path / "config.json", RECORD)
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    return tmp_path


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(**fields):
    """The default configuration with fields changed; `__` stands for a dot."""
    overrides = {name.replace("__", "."): value for name, value in fields.items()}
    return configuration.from_record(RECORD["config"], overrides)


def test_the_same_configuration_goes_on(workdir):
    run_directory.check_workdir(workdir)
    run = RunDirectory.open(workdir)
    run_directory.check_resumes(run, default.get_config())
    # With the data elsewhere, and what is not part of a run changed.
    elsewhere = changed(data__manual_dir="/elsewhere", evaluate__num_importance_samples=7)
    run_directory.check_resumes(run, elsewhere)


def test_another_configuration_is_refused_with_every_difference(workdir):
    run, other = RunDirectory.open(workdir), changed(seed=3, encoder__dense_sizes=(1, 3))
    for check in (run_directory.check_resumes, run_directory.check_same_config):
        with pytest.raises(UserError) as error:
            check(run, other)
        message = one_line(error)
        assert "seed is 0 there, 3 here" in message
        assert "encoder.dense_sizes is (512, 256) there, (1, 3) here" in message
        assert message.count(" there, ") == 2


def test_groups_of_fields_may_differ_where_that_is_the_purpose(workdir):
    run, other = RunDirectory.open(workdir), changed(prior__kind="mixture")
    assert run.with_config(other, ("prior",)).config.prior.kind == "mixture"
    with pytest.raises(UserError, match=r"prior\.kind is 'standard_normal' there, 'mixture' here"):
        run.with_config(other)
    with pytest.raises(UserError, match="seed is 0 there, 3 here"):
        run.with_config(changed(seed=3), ("prior",))


def test_more_epochs_are_the_same_run_if_the_finished_ones_stay_as_they_are(workdir):
    run = RunDirectory.open(workdir)
    epochs = run.config.train.num_epochs
    run_directory.check_resumes(run, changed(train__num_epochs=epochs + 1))
    with pytest.raises(UserError, match="can be trained for more epochs, not for fewer"):
        run_directory.check_resumes(run, changed(train__num_epochs=epochs - 1))
    cosine = {"train__learning_rate_schedule": "cosine"}
    run = dataclasses.replace(run, config=changed(**cosine))
    run_directory.check_resumes(run, changed(**cosine))
    with pytest.raises(UserError, match="the cosine schedule depends on the number of epochs"):
        run_directory.check_resumes(run, changed(train__num_epochs=epochs + 1, **cosine))


def test_where_nothing_was_trained_yet_another_configuration_may_begin(workdir):
    (workdir / "checkpoints" / "40").rename(workdir / "checkpoints" / "40.orbax-tmp")
    (workdir / "metrics.csv").write_text("epoch,step\n")
    assert run_directory.can_begin_anew(workdir)
    assert train._open_existing(workdir, changed(seed=3)) is None
    for name, content in (("summary.json", "{}"), ("metrics.csv", "epoch,step\n1,40\n")):
        (workdir / name).write_text(content)
        assert not run_directory.can_begin_anew(workdir)
        with pytest.raises(UserError, match="seed is 0 there, 3 here"):
            train._open_existing(workdir, changed(seed=3))
        (workdir / name).unlink()


def test_other_data_is_refused(workdir):
    run = RunDirectory.open(workdir)
    run_directory.check_same_data(run, "abc")
    with pytest.raises(UserError, match="SHA-256 abc, this is def"):
        run_directory.check_same_data(run, "def")


def test_a_run_is_read_once(workdir, monkeypatch):
    run = RunDirectory.open(workdir)
    (workdir / "config.json").unlink()
    assert os.fspath(run) == str(workdir)
    assert (run.path, run.record) == (workdir, json.loads(json.dumps(RECORD)))
    assert run.config.to_dict() == RECORD["config"]
    assert run.config.encoder.dense_sizes == (512, 256)  # a tuple, as a configuration's
    assert run.replica_folders == [workdir]
    assert run.parent is None


def test_a_field_that_an_older_record_lacks_has_its_default(tmp_path):
    config = default.get_config().to_dict() | {"seed": 5}
    del config["decoder"]["kind"], config["condition"]
    write_json(tmp_path / "config.json", {"config": config})
    run = RunDirectory.open(tmp_path)
    assert run.config.to_dict() == default.get_config().to_dict() | {"seed": 5}
    run_directory.check_resumes(run, changed(seed=5))


def test_fields_that_are_no_part_of_a_run_can_be_changed_and_reset(workdir):
    run = RunDirectory.open(workdir)
    other = run.with_overrides({"evaluate.num_importance_samples": 7, "data.path": None})
    assert other.config.evaluate.num_importance_samples == 7
    assert run.config.evaluate.num_importance_samples != 7
    assert other.as_recorded().config == run.config
    assert (other.path, other.record) == (run.path, run.record)
    with pytest.raises(UserError, match="latent_size is 64 there, 3 here"):
        run.with_overrides({"latent_size": 3})
    with pytest.raises(
        UserError, match=r"evaluate\.num_importance_samples is 0, must be at least 1"
    ):
        run.with_overrides({"evaluate.num_importance_samples": 0})


def test_images_have_the_recorded_shape_and_classes(tmp_path):
    record = RECORD | {"image_shape": [28, 20, 3], "class_names": ["a", "b"]}
    write_json(tmp_path / "config.json", record)
    assert RunDirectory.open(tmp_path).spec == datasets.DataSpec((28, 20, 3), ("a", "b"))
    del record["class_names"]  # as in records of older versions
    write_json(tmp_path / "config.json", record)
    assert RunDirectory.open(tmp_path).spec == datasets.DataSpec((28, 20, 3))


@pytest.mark.parametrize("shape", [None, [28, 28], [28, 28, "1"], {"height": 28}])
def test_a_record_without_a_valid_shape_is_damaged(tmp_path, shape):
    write_json(tmp_path / "config.json", RECORD | ({"image_shape": shape} if shape else {}))
    with pytest.raises(UserError, match=r"config\.json: has no 'image_shape'; the file is damaged"):
        _ = RunDirectory.open(tmp_path).spec


def test_each_replica_has_its_folder(tmp_path):
    config = changed(seed=3, train__num_replicas=2).to_dict()
    parent = {run_directory.PARENT: "/runs/other"}
    write_json(tmp_path / "config.json", {"config": config} | parent)
    run = RunDirectory.open(tmp_path)
    assert run.replica_folders == [tmp_path / "replicas" / f"seed_{seed}" for seed in (3, 4)]
    assert run.parent == "/runs/other"


def test_the_number_of_epochs_is_recorded_and_nothing_else(workdir):
    run = RunDirectory.open(workdir)
    run_directory.record_num_epochs(run, changed(train__num_epochs=77, seed=3))
    expected = json.loads(json.dumps(RECORD))
    expected["config"]["train"]["num_epochs"] = 77
    assert json.loads((workdir / "config.json").read_text()) == expected


def test_a_new_or_empty_folder_will_do_and_is_not_made(tmp_path):
    run_directory.check_workdir(tmp_path)
    run_directory.check_workdir(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file; give a folder"):
            run_directory.check_workdir(path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / ".lock").write_text("")
    for name, expected in ((".DS_Store", r"it holds \.DS_Store; give"), ("a", "and 1 more; give")):
        (tmp_path / name).write_text("")
        with pytest.raises(UserError, match="neither empty nor a run directory") as error:
            run_directory.check_workdir(tmp_path)
        assert re.search(expected, one_line(error))


def test_a_name_too_long_for_a_folder_is_cut(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)") as error:
        RunDirectory.open(tmp_path / ("a" * 3000))
    assert len(one_line(error)) < 300
    assert f"{'a' * 60}...{'a' * 19}" in one_line(error)


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        RunDirectory.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": 3}'])
def test_a_damaged_config_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: .*damaged") as error:
        RunDirectory.open(tmp_path)
    one_line(error)


@pytest.mark.parametrize("opening", ['{"config": ', "["])
@pytest.mark.parametrize("depth", [30, 300, 100_000])
def test_a_config_nested_too_deeply_is_damaged(tmp_path, opening, depth):
    closing = "}" if opening.startswith("{") else "]"
    (tmp_path / "config.json").write_text(opening * depth + "3" + closing * depth)
    with pytest.raises(UserError, match=r"config\.json: .*damaged") as error:
        RunDirectory.open(tmp_path)
    one_line(error)


@pytest.mark.parametrize("content", ["[]", "3", '"config"'])
def test_a_config_that_is_no_record_says_nothing_of_the_data(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: has no 'config' entry.*damaged"):
        RunDirectory.open(tmp_path)


def test_what_a_damaged_config_holds_is_shown_in_one_line(tmp_path):
    record = {"config": RECORD["config"] | {"a\nb\x1b[2J\u2028": 1}}
    write_json(tmp_path / "config.json", record)
    with pytest.raises(UserError, match=r"config\.json: a\\nb\\x1b\[2J\\u2028 is not a field"):
        RunDirectory.open(tmp_path)
    write_json(tmp_path / "config.json", RECORD | {"data_sha256": "x\ny"})
    with pytest.raises(UserError, match=r"SHA-256 x\\ny, this is abc"):
        run_directory.check_same_data(RunDirectory.open(tmp_path), "abc")


def test_provenance_names_versions_and_data():
    dataset = datasets.load("mnist_5k")
    record = run_directory.provenance("cpu", 2, {"jax_a": "high"}, dataset, 7)
    assert set(record["versions"]) == {"jax", "jaxlib", "flax", "optax", "numpy"}
    assert record["device_kind"] == "cpu"
    assert record["data_sha256"] == dataset.sha256
    assert record["image_shape"] == [28, 28, 1]
    assert record["class_names"] == [str(digit) for digit in range(10)]
    assert record["split_seed"] is None  # not split by one
    assert record["evaluation_binarization_seed"] == 7


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system tells no affinity")
def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    record = run_directory.provenance("cpu", 1, {}, datasets.load("mnist_5k"), None)
    assert record["cores"] == 3


def test_a_run_that_goes_on_elsewhere_names_what_is_other(tmp_path):
    here = {"versions": {"jax": "1"}, "cores": 2, "jax_options": {"jax_a": None}}
    write_json(tmp_path / "config.json", here | RECORD)
    run = RunDirectory.open(tmp_path)
    assert run_directory.environment_changes(run, here) == []
    other = here | {"versions": {"jax": "2"}, "jax_options": {"jax_a": "high"}, "device_count": 1}
    assert run_directory.environment_changes(run, other) == [
        "versions.jax was '1', is '2'",
        "jax_options.jax_a was None, is 'high'",
    ]


def test_outside_git_there_is_no_commit(tmp_path):
    assert run_directory.git_commit(tmp_path) is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_to_be_one_and_can_be_used(
    tmp_path, monkeypatch, number
):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(UserError) as error, run_directory.locked(tmp_path):
        pass
    message = one_line(error)
    assert f"its file system cannot lock files ({os.strerror(number)})" in message
    assert message.endswith("or --nolock_workdir where no other process trains there")
    (tmp_path / ".partial.x").touch()
    with run_directory.locked(tmp_path, lock=False):
        assert os.listdir(tmp_path) == [".lock"]


def test_the_folder_of_another_process_is_refused(tmp_path):
    with run_directory.locked(tmp_path):
        with pytest.raises(UserError) as error, run_directory.locked(tmp_path):
            pass
        assert f"process {os.getpid()} on " in one_line(error)


def test_a_full_disk_names_the_lock(tmp_path):
    with (
        full_disk(0),
        pytest.raises(OSError, match="File too large") as error,
        run_directory.locked(tmp_path),
    ):
        pass
    assert error.value.filename == str(tmp_path / ".lock")


def test_a_backslash_in_the_path_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="has a backslash in its whole path"):
        run_directory.check_workdir(tmp_path / "a\\b")


def test_where_the_data_lie_is_recorded_as_a_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = default.get_config()
    config.data.manual_dir, config.data.path = "files", "~/photos"
    recorded = run_directory.config_to_record(config)["data"]
    assert recorded["manual_dir"] == str(tmp_path / "files")
    assert recorded["path"] == str(Path.home() / "photos")
    assert recorded["data_dir"] is None
    assert config.data.manual_dir == "files"  # as it was given
