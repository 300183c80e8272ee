"""XLA's flags and the cache of compiled programs."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from tests.support.common import ROOT
from vae_jax import __main__ as main
from vae_jax.runtime import compilation, division


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
    set_flags = os.environ["XLA_FLAGS"].split()
    assert "--xla_cpu_copy_insertion_use_region_analysis=true" in set_flags
    assert set_flags[-1] == "--xla_cpu_copy_insertion_use_region_analysis=false"


@pytest.mark.parametrize(
    ("plugin", "platforms", "is_set"),
    [
        ("xla_cuda12", None, True),
        ("xla_rocm7", "rocm", True),
        ("xla_cuda13", "cpu", False),
        ("tpu", None, False),
    ],
)
def test_results_on_a_gpu_repeat_unless_the_user_says_otherwise(
    monkeypatch, plugin, platforms, is_set
):
    plugins = {"jax_plugins": [importlib.metadata.EntryPoint(plugin, "module", "jax_plugins")]}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins[group])
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=4")
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    compilation.set_gpu_flags()
    jax.config.update("jax_platforms", before)
    added = ["--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"]
    expected = [*(added if is_set else []), "--xla_gpu_autotune_level=4"]
    assert os.environ["XLA_FLAGS"].split() == expected
    assert compilation.recorded_options()["XLA_FLAGS"].split() == expected


@pytest.mark.parametrize("is_set", [True, False])
def test_the_command_line_sets_the_flags_of_a_gpu_and_the_cache(monkeypatch, is_set):
    called = []
    for name in ("fix_options", "set_cpu_flags", "set_gpu_flags", "use_cache"):
        monkeypatch.setattr(compilation, name, lambda name=name: called.append(name))
    monkeypatch.setattr(division, "offer_cores", lambda: called.append("offer_cores"))
    with flagsaver.flagsaver(deterministic=is_set, compilation_cache=not is_set):
        flags.FLAGS.mark_as_parsed()
        assert main._start_jax()
    assert ("set_gpu_flags" in called) == ("use_cache" not in called) == is_set


def test_the_cache_is_in_the_users_cache_folder(monkeypatch, tmp_path, no_cache_yet):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.use_cache()
    folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert folder.is_dir()
    assert folder.parent == tmp_path / "vae_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert compilation.cache_folder().parent == pathlib.Path("/home/someone/.cache/vae_jax")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))  # the user's choice
    compilation.use_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


_COMPILE_TWO_PROGRAMS = """
import jax
from vae_jax.runtime import compilation
compilation.use_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
for number in (2.0, 3.0):
    jax.jit(lambda x: x * number)(1.0).block_until_ready()
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100], ids=["empty", "truncated"])
def test_a_damaged_program_empties_the_cache_once(tmp_path, size):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("JAX_")
    } | {"XDG_CACHE_HOME": str(tmp_path)}
    # Flags of a GPU do no harm on a CPU.
    environment |= {"XLA_FLAGS": " ".join(compilation._GPU_FLAGS), "JAX_PLATFORMS": "cpu"}

    def compile_two_programs():
        command = [sys.executable, "-c", _COMPILE_TWO_PROGRAMS]
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return result.stderr, {path: path.stat().st_ino for path in tmp_path.rglob("*-cache")}

    _, programs = compile_two_programs()
    assert len(programs) >= 2
    for path in programs:
        path.write_bytes(path.read_bytes()[:size])
    errors, _ = compile_two_programs()
    assert errors.count("\n") == 1 and "the cache was emptied" in errors
    errors, again = compile_two_programs()
    assert errors == "" and again.keys() == programs.keys()
    assert compile_two_programs() == ("", again)


def test_a_cache_that_cannot_be_written_is_reported(
    monkeypatch, tmp_path, capsys, no_cache_yet, no_home
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation.use_cache()
    monkeypatch.delenv("XDG_CACHE_HOME")  # and a user without a home folder
    compilation.use_cache()
    assert jax.config.jax_compilation_cache_dir is None
    assert capsys.readouterr().err.count("programs are compiled each time") == 2
