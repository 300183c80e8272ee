"""Locks: abandoned folders of killed processes go, and a system without locks still works."""

import errno
import os
import subprocess
import sys
import time

import pytest

from tests.support.common import ROOT
from vae_jax.runtime import locks
from vae_jax.runtime.files import scratch_folder

# What a system without the module `fcntl` does.
WITHOUT_LOCKS = """
import sys
sys.modules["fcntl"] = None
from pathlib import Path
from vae_jax.runtime.files import scratch_folder
from vae_jax.training.run_directory import locked
with locked(Path(sys.argv[1], "run")), locked(Path(sys.argv[1], "run"), lock=False):
    pass
with scratch_folder(Path(sys.argv[1]), ".decoding.") as folder:
    (folder / "a").touch()
"""


def test_the_folder_of_a_killed_process_is_removed_by_the_next(tmp_path):
    folders = [tmp_path / f".exporting.{name}" for name in ("killed", "alive", "new")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[:2]:
        os.utime(folder, (time.time() - 10,) * 2)
    (tmp_path / "mine").mkdir()
    with locks.locked_folder(folders[1]), scratch_folder(tmp_path, ".exporting.") as scratch:
        assert {*tmp_path.iterdir()} == {scratch, *folders[1:], tmp_path / "mine"}
    assert not scratch.exists()


@pytest.mark.slow
def test_a_system_without_locks_works(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_LOCKS, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert not [*tmp_path.glob(".decoding.*")]


def test_a_file_system_without_locks_is_an_error_only_for_those_who_do_not_wait(
    tmp_path, monkeypatch
):
    def refuse(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock", refuse)
    with locks.locked_folder(tmp_path):
        pass
    with pytest.raises(OSError, match="No locks"), locks.locked_folder(tmp_path, wait=False):
        pass
