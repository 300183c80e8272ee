"""Where compiled programs are kept, and what XLA is told."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from tests.support.common import ROOT
from vae_jax.runtime import compilation


@pytest.fixture
def no_cache_yet():
    before = jax.config.jax_compilation_cache_dir
    minimum = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", minimum)


def test_the_users_flags_come_last(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_copy_insertion_use_region_analysis=false")
    compilation.set_cpu_flags()
    flags = os.environ["XLA_FLAGS"].split()
    assert "--xla_cpu_copy_insertion_use_region_analysis=true" in flags
    assert flags[-1] == "--xla_cpu_copy_insertion_use_region_analysis=false"


def test_the_cache_is_in_the_users_cache_folder(monkeypatch, tmp_path, no_cache_yet):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.use_cache()
    folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert folder.is_dir()
    assert folder.parent == tmp_path / "vae_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert compilation.cache_folder().parent == pathlib.Path("/home/someone/.cache/vae_jax")


def test_a_folder_of_the_users_choice_stays(monkeypatch, tmp_path, no_cache_yet):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    compilation.use_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


_COMPILE_TWO_PROGRAMS = """
import warnings
warnings.simplefilter("error")
import jax
from vae_jax.runtime import compilation
compilation.use_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
for number in (2.0, 3.0):
    jax.jit(lambda x: x * number)(1.0).block_until_ready()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [b"", b"x\x9c", b"\0" * 4000, None],
    ids=["empty", "two bytes", "zeros", "cut off"],
)
def test_damaged_programs_are_compiled_anew_once(tmp_path, damage):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("JAX_")
    } | {"XDG_CACHE_HOME": str(tmp_path)}

    def compile_two_programs():
        command = [sys.executable, "-c", _COMPILE_TWO_PROGRAMS]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return {path: path.stat().st_ino for path in tmp_path.rglob("*-cache")}

    before = compile_two_programs()
    assert len(before) >= 2
    kept, *damaged = before
    for path in damaged:
        path.write_bytes(path.read_bytes()[:100] if damage is None else damage)
    healed = compile_two_programs()
    assert healed.keys() == before.keys()
    assert all(path.stat().st_size > 100 for path in healed)
    assert healed[kept] == before[kept]
    assert compile_two_programs() == healed


def test_a_cache_that_cannot_be_made_is_said(monkeypatch, tmp_path, capsys, no_cache_yet):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation.use_cache()
    assert jax.config.jax_compilation_cache_dir is None
    assert "cannot be written, so programs are compiled anew" in capsys.readouterr().err


def test_a_user_without_a_home_folder_is_told(monkeypatch, capsys, no_cache_yet, no_home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    compilation.use_cache()
    assert jax.config.jax_compilation_cache_dir is None
    assert capsys.readouterr().err.startswith("there is no home folder, so programs are compiled")


@pytest.mark.parametrize("flag", ["--compilation_cache", "--nocompilation_cache"])
def test_the_flag_turns_it_off(tmp_path, flag):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("JAX_")
    } | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "main.py", flag, "--config=configs/quickstart.py"]
    # This batch is refused once JAX and the data are there.
    command += [f"--workdir={tmp_path / 'run'}", "--config.train.batch_size=9999"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "must be at most 4000" in result.stderr
    assert (tmp_path / "vae_jax").exists() == (flag == "--compilation_cache")
