"""Locks: abandoned folders of killed processes go, and a system without locks still works."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.common import ROOT
from vae_jax.runtime import locks
from vae_jax.runtime.files import scratch_folder

HOLD = """
import sys, time
from pathlib import Path
from vae_jax.runtime.files import scratch_folder
with scratch_folder(Path(sys.argv[1]), ".exporting.") as folder:
    (folder / "a").touch()
    print(folder, flush=True)
    time.sleep(600)
"""
# What a system without the module `fcntl` does.
WITHOUT_LOCKS = """
import sys
sys.modules["fcntl"] = None
from pathlib import Path
import vae_jax
from vae_jax import sample
from vae_jax.runtime.files import scratch_folder
from vae_jax.training.run_directory import RunDirectory, locked
vae = vae_jax.load_run("models/small")
sample.sample(RunDirectory.open("models/small"), sys.argv[1], num=2)
with locked(Path(sys.argv[1], "run")), locked(Path(sys.argv[1], "run"), lock=False):
    pass
with scratch_folder(Path(sys.argv[1]), ".decoding.") as folder:
    (folder / "a").touch()
"""


def hold(folder):
    """A process with a scratch folder, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def make_older(path, seconds):
    now = time.time()
    os.utime(path, (now - seconds, now - seconds))


def test_the_folder_of_a_killed_process_is_removed_by_the_next(tmp_path):
    alive, kept = hold(tmp_path)
    killed, abandoned = hold(tmp_path)
    killed.kill()
    with killed:
        assert killed.wait() == -signal.SIGKILL
    for path in (kept, abandoned):
        make_older(path, 10)
    (tmp_path / "mine").mkdir()
    with scratch_folder(tmp_path, ".exporting.") as folder:
        assert {*tmp_path.iterdir()} == {folder, tmp_path / "mine", tmp_path / kept}
    with alive:
        alive.terminate()  # a signal removes it
    assert [*tmp_path.iterdir()] == [tmp_path / "mine"]


def test_the_folder_of_another_machine_has_a_day(tmp_path):
    for name, hours in (("new", 1), ("old", 25)):
        path = tmp_path / f".fitting.elsewhere.{name}"
        path.mkdir()
        make_older(path, 3600 * hours)
    locks.remove_abandoned(tmp_path, ".fitting.")
    assert [path.name for path in tmp_path.iterdir()] == [".fitting.elsewhere.new"]


@pytest.mark.slow
def test_a_system_without_locks_is_told_once_and_works(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_LOCKS, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("cannot lock files") == 1
    assert "Traceback" not in result.stderr
    assert len([*(tmp_path / "samples").iterdir()]) == 2
    assert not [*tmp_path.glob(".decoding.*")]


def test_a_message_for_waiting_excuses_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock", refuse)
    with locks.locked_folder(tmp_path, waiting="waiting"):
        pass
    with pytest.raises(OSError, match="No locks"), locks.locked_folder(tmp_path):
        pass
