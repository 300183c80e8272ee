"""Files that are whole or not there, and what a run directory refuses."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

from configs import default
from tests.support.common import full_disk
from vae_jax import datasets
from vae_jax.runtime import locks
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_json
from vae_jax.training import run_directory

CONFIG = default.get_config().to_dict() | {"sizes": (1, 2)}


@pytest.fixture
def workdir(tmp_path):
    """A run directory that holds CONFIG's run."""
    record = {"config": CONFIG, "data_sha256": "abc"}
    write_json(tmp_path / "config.json", record)
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    return tmp_path


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_same_configuration_goes_on(workdir):
    run_directory.check_workdir(workdir, CONFIG)
    # As JSON gives it back, and with the data elsewhere.
    elsewhere = json.loads(json.dumps(CONFIG))
    elsewhere["data"]["manual_dir"] = "/elsewhere"
    run_directory.check_workdir(workdir, elsewhere)


def test_another_configuration_is_refused_with_every_difference(workdir):
    other = CONFIG | {"seed": 3, "sizes": (1, 3)}
    with pytest.raises(UserError) as error:
        run_directory.check_workdir(workdir, other)
    message = one_line(error)
    assert "seed is 0 there, 3 here" in message
    assert "sizes is (1, 2) there, (1, 3) here" in message
    assert "data" not in message.replace("data set", "")


def test_where_nothing_was_trained_yet_another_configuration_may_begin(workdir):
    (workdir / "checkpoints" / "40").rename(workdir / "checkpoints" / "40.orbax-tmp")
    (workdir / "metrics.csv").write_text("epoch,step\n")
    run_directory.check_workdir(workdir, CONFIG | {"seed": 3})
    for name, content in (("summary.json", "{}"), ("metrics.csv", "epoch,step\n1,40\n")):
        (workdir / name).write_text(content)
        with pytest.raises(UserError, match="seed is 0 there, 3 here"):
            run_directory.check_workdir(workdir, CONFIG | {"seed": 3})
        (workdir / name).unlink()


def test_other_data_is_refused(workdir):
    run_directory.check_same_data(workdir, "abc")
    with pytest.raises(UserError, match="SHA-256 abc, this is def"):
        run_directory.check_same_data(workdir, "def")


def test_a_new_or_empty_folder_will_do_and_is_not_made(tmp_path):
    run_directory.check_workdir(tmp_path, CONFIG)
    run_directory.check_workdir(tmp_path / "a" / "b", CONFIG)
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file; give a folder"):
            run_directory.check_workdir(path, CONFIG)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / ".lock").write_text("")
    for name, expected in ((".DS_Store", r"it holds \.DS_Store; give"), ("a", "and 1 more; give")):
        (tmp_path / name).write_text("")
        with pytest.raises(UserError, match="neither empty nor a run directory") as error:
            run_directory.check_workdir(tmp_path, CONFIG)
        assert re.search(expected, one_line(error))


def test_a_name_too_long_for_a_folder_is_cut(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)") as error:
        run_directory.read_config(tmp_path / ("a" * 3000))
    assert len(one_line(error)) < 300
    assert f"{'a' * 60}...{'a' * 19}" in one_line(error)


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        run_directory.read_config(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": 3}'])
def test_a_damaged_config_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: .*damaged") as error:
        run_directory.read_config(tmp_path)
    one_line(error)


@pytest.mark.parametrize("opening", ['{"config": ', "["])
@pytest.mark.parametrize("depth", [30, 300, 100_000])
def test_a_config_nested_too_deeply_is_damaged(tmp_path, opening, depth):
    closing = "}" if opening.startswith("{") else "]"
    (tmp_path / "config.json").write_text(opening * depth + "3" + closing * depth)
    with pytest.raises(UserError, match=r"config\.json: .*damaged") as error:
        run_directory.check_same_config(tmp_path, CONFIG)
    one_line(error)


@pytest.mark.parametrize("content", ["[]", "3", '"config"'])
def test_a_config_that_is_no_record_says_nothing_of_the_data(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: has no 'config' entry.*damaged"):
        run_directory.check_same_data(tmp_path, "abc")


def test_what_a_damaged_config_holds_is_shown_in_one_line(tmp_path):
    record = {"config": CONFIG | {"a\nb\x1b[2J\u2028": 1}, "data_sha256": "x\ny"}
    write_json(tmp_path / "config.json", record)
    with pytest.raises(UserError, match=r"a\\nb\\x1b\[2J\\u2028 is 1 there, None here"):
        run_directory.check_same_config(tmp_path, CONFIG)
    with pytest.raises(UserError, match=r"SHA-256 x\\ny, this is abc"):
        run_directory.check_same_data(tmp_path, "abc")


def test_provenance_names_versions_and_data():
    dataset = datasets.load("mnist_5k")
    record = run_directory.provenance("cpu", 2, {"jax_a": "high"}, dataset, 7)
    assert set(record["versions"]) == {"jax", "jaxlib", "flax", "optax", "numpy"}
    assert record["device_kind"] == "cpu"
    assert record["data_sha256"] == dataset.sha256
    assert record["image_shape"] == [28, 28, 1]
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
    write_json(tmp_path / "config.json", here | {"config": CONFIG})
    assert run_directory.environment_changes(tmp_path, here) == []
    other = here | {"versions": {"jax": "2"}, "jax_options": {"jax_a": "high"}, "device_count": 1}
    assert run_directory.environment_changes(tmp_path, other) == [
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
        run_directory.check_workdir(tmp_path / "a\\b", {})


def test_where_the_data_lie_is_recorded_as_a_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = default.get_config()
    config.data.manual_dir, config.data.path = "files", "~/photos"
    recorded = run_directory.config_to_record(config)["data"]
    assert recorded["manual_dir"] == str(tmp_path / "files")
    assert recorded["path"] == str(Path.home() / "photos")
    assert recorded["data_dir"] is None
    assert config.data.manual_dir == "files"  # as it was given
