"""Locks: abandoned folders of killed processes go, and a system without locks still works."""

import errno
import subprocess
import sys

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
    for name in (".exporting.killed", "mine"):
        (tmp_path / name).mkdir()
    with scratch_folder(tmp_path, ".exporting.") as scratch:
        assert {*tmp_path.iterdir()} == {scratch, tmp_path / "mine"}
    assert not scratch.exists()


@pytest.mark.slow
def test_a_system_without_locks_works(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_LOCKS, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert not [*tmp_path.glob(".decoding.*")]


def test_without_locks_a_folder_may_be_of_another_process(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock", refuse)
    (tmp_path / ".exporting.alive").mkdir()
    with scratch_folder(tmp_path, ".exporting."):
        assert (tmp_path / ".exporting.alive").exists()
