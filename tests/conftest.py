"""What makes tests of whole runs short: a small configuration, and no program compiled twice."""

import jax
import ml_collections
import pytest

from configs import default
from vae_jax.training.checkpoints import Checkpoints


@pytest.fixture
def small_config() -> ml_collections.ConfigDict:
    """A valid configuration of a model with few parameters, on the embedded digits."""
    config = default.get_config()
    config.data.name = "mnist_5k"
    config.latent_size = 8
    config.encoder.hidden_size = 16
    config.decoder.dense_sizes = (49,)
    config.decoder.grid = (7, 7, 1)
    config.decoder.filters = (4, 4)
    config.decoder.strides = (2, 2)
    config.train.num_epochs = 2
    config.train.learning_rate = 0.003
    return config


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Keeps compiled programs for the session, for processes that tests start too."""
    folder = str(tmp_path_factory.mktemp("compilation_cache"))
    options = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


@pytest.fixture
def interrupt_save_of_step(monkeypatch):
    """Makes the next save of a step be interrupted before it begins."""
    save = Checkpoints.save

    def prepare(interrupted_step):
        def interrupted_save(checkpoints, step, state, progress):
            if step == interrupted_step:
                monkeypatch.undo()
                raise KeyboardInterrupt
            save(checkpoints, step, state, progress)

        monkeypatch.setattr(Checkpoints, "save", interrupted_save)

    return prepare
