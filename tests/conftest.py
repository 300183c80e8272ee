"""Fixtures that make tests short: small configurations, shared runs, one cache of programs."""

import fcntl
import gc
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

from configs import default
from tests.support.common import MNIST_DIR, ROOT, make_small_config
from vae_jax import configuration, datasets, train
from vae_jax.evaluation import plots
from vae_jax.runtime import compilation
from vae_jax.training.checkpoints import Checkpoints

# Two workers on two cores: more threads of scikit-learn's would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
compilation.set_cpu_flags()  # as `main.py` does: its processes compute the same bits


@pytest.fixture
def small_config() -> ml_collections.ConfigDict:
    """A valid configuration of a model with few parameters, on the embedded digits."""
    return make_small_config()


@pytest.fixture
def no_home(monkeypatch):
    """A user without a home folder, as in a container."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["no such user"])


@pytest.fixture(scope="session")
def make_once(tmp_path_factory, worker_id):
    """Makes a folder once for all workers: the first that needs it makes it, others wait."""

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        if worker_id == "master":
            folder = tmp_path_factory.mktemp(name) / name
            make(folder)
            return folder
        shared = tmp_path_factory.getbasetemp().parent
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / f"{name}.made").exists():
                make(shared / name)
                (shared / f"{name}.made").touch()
        return shared / name

    return make_once


@pytest.fixture(scope="session")
def trained_run(make_once, compilation_cache):
    """A complete run of that configuration, to be read and not written to."""
    return make_once("trained", lambda path: train.train_and_evaluate(make_small_config(), path))


@pytest.fixture(scope="session")
def make_tiny_config(make_once):
    """Makes a configuration that trains in a fraction of a second: 140 digits of 8 x 8 pixels."""

    def write_digits(folder):
        folder.mkdir()
        digits = datasets.load("mnist_5k").test[:200]
        images = digits.images[:, 2:-2:3, 2:-2:3]
        np.savez(folder / "digits.npz", images=images, labels=digits.labels)

    path = make_once("digits", write_digits) / "digits.npz"

    def make_tiny_config(**fields: Any) -> ml_collections.ConfigDict:
        config = make_small_config()
        config.data.update(name="images", path=str(path), validation_size=30, test_size=30)
        config.train.batch_size = 20
        config.encoder.hidden_size = default.get_config().encoder.hidden_size
        config.update_from_flattened_dict(fields)
        return config

    return make_tiny_config


@pytest.fixture(scope="session")
def tiny_arguments(make_tiny_config):
    """The command line of that configuration, which sets all fields but the defaults."""
    defaults = configuration.default_fields()
    fields = configuration.flatten(make_tiny_config().to_dict())
    changed = {name: value for name, value in fields.items() if value != defaults[name]}
    return (
        f"--config={ROOT}/configs/default.py",
        *(f"--config.{name}={value}" for name, value in changed.items()),
    )


@pytest.fixture(scope="session")
def tiny_run(make_once, make_tiny_config, compilation_cache):
    """A complete run of that configuration, to be read and not written to."""
    return make_once("tiny", lambda path: train.train_and_evaluate(make_tiny_config(), path))


@pytest.fixture
def copied_run(trained_run, tmp_path):
    """A copy of that run, to be written to."""
    workdir = tmp_path / "copied"
    shutil.copytree(trained_run, workdir)
    return workdir


@pytest.fixture(scope="module", autouse=True)
def cleared_caches():
    """Forgets compiled programs and open plots when a module is done: memory stays small."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(pytestconfig):
    """Compiles quickly, and stores programs for all workers, processes and later sessions.

    Programs of tests run for moments: optimizing them takes longer than it saves.
    """
    options = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(pytestconfig.cache.mkdir("compilation")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


@pytest.fixture(scope="session")
def prepared_mnist(make_once):
    """A folder with MNIST prepared in it."""
    return str(make_once("mnist", lambda path: datasets.load("mnist", str(path), MNIST_DIR)))


def pytest_collection_modifyitems(config, items):
    """Leaves nightly tests out unless `-m` names them; puts the files with slow tests first."""
    if "nightly" not in config.option.markexpr:
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def coarse_plots():
    """Draws plots of few pixels, which takes a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_DPI", 50)
        yield


@pytest.fixture
def without_report(monkeypatch):
    """Trains without the summary and the plots, for tests of rows, states or messages."""
    monkeypatch.setattr(train, "_report", lambda *_: None)


@pytest.fixture
def interrupt_save_of_step(monkeypatch):
    """Makes the next save of a step be interrupted before it begins."""

    def prepare(interrupted_step):
        save = Checkpoints.save

        def interrupted_save(checkpoints, step, *rest):
            if step == interrupted_step:
                monkeypatch.setattr(Checkpoints, "save", save)
                raise KeyboardInterrupt
            save(checkpoints, step, *rest)

        monkeypatch.setattr(Checkpoints, "save", interrupted_save)

    return prepare
