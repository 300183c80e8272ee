"""What many tests share: places, small models, settings of steps."""

import contextlib
import os
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
import pytest

from configs import default
from vae_jax.datasets import DataSpec
from vae_jax.model import vae
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, create_vae
from vae_jax.runtime.errors import UserError
from vae_jax.training import steps
from vae_jax.training.metrics import StepMetrics
from vae_jax.training.settings import EvaluationSettings, TrainSettings, train_settings
from vae_jax.training.train_state import TrainState

ROOT = Path(__file__).parents[2]
# A folder with the four official MNIST files, where there is one.
MNIST_DIR = os.environ.get("MNIST_DIR", "")
needs_mnist = pytest.mark.skipif(not MNIST_DIR, reason="MNIST_DIR names no folder with MNIST")


def python_block(path: str, word: str) -> str:
    """The one Python block of a page that has this word."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
    [code] = (block for block in blocks if word in block)
    return code


def contents(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its path there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextlib.contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Lets no file grow beyond some bytes, which fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def small_vae(
    latent_size: int = 3,
    hidden: int = 16,
    image_shape: tuple[int, int, int] = (28, 28, 1),
    **decoder: Any,
) -> VAE:
    """A model with few parameters: a dense encoder and two transposed convolutions."""
    encoder = {"kind": "dense", "dense_sizes": (hidden,)}
    fields = {"dense_sizes": (), "grid_channels": 1, "filters": (2, 2), "strides": (2, 2)}
    return create_vae(latent_size, encoder, fields | decoder, image_shape)


# Compiled as one program: much sooner done than its operations one by one.
apply = jax.jit(vae.apply, static_argnames=("module", "method"))


def make_small_config() -> ml_collections.ConfigDict:
    """A valid configuration of a model with few parameters, on the embedded digits."""
    config = default.get_config()
    config.data.name = "mnist_5k"
    config.latent_size = 8
    config.encoder.kind = "dense"
    config.encoder.dense_sizes = (64,)
    config.encoder.hidden_size = 16  # where a test takes the LSTM
    config.decoder.dense_sizes = ()
    config.decoder.grid_channels = 1
    config.decoder.filters = (4,)
    config.decoder.strides = (4,)
    config.train.num_epochs = 2
    config.train.learning_rate = 0.003
    config.train.checkpoint_seconds = 0.0
    return config


def settings_of(config: ml_collections.ConfigDict, steps_per_epoch: int = 40) -> TrainSettings:
    """The settings of training a configuration on images of the shape of MNIST's."""
    return train_settings(config, DataSpec((28, 28, 1)), steps_per_epoch)


def make_settings(
    model: VAE,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int = 5,
    evaluation: dict[str, Any] | None = None,
    learning_rate: optax.ScalarOrSchedule = 0.1,
    **fields: Any,
) -> TrainSettings:
    """Settings of steps; `evaluation` holds fields of `EvaluationSettings` beside the model."""
    return TrainSettings(
        EvaluationSettings(model, **evaluation or {}),
        optimizer or optax.sgd(0.1),
        learning_rate,
        batch_size,
        **fields,
    )


def train_step(
    settings: TrainSettings, state: TrainState, batch: Batch
) -> tuple[TrainState, StepMetrics]:
    """Takes one step on a batch; of several replicas, `batch` is the same for all."""
    order = np.arange(settings.batch_size)
    if settings.evaluation.num_replicas > 1:
        order = np.stack([order] * settings.evaluation.num_replicas)
    state, metrics = steps.train_chunk(settings, state, batch, order, 0, 1)
    return state, jax.tree.map(lambda values: values[0], metrics)


def assert_trees_equal(first: Any, second: Any) -> None:
    """Asserts that two trees of arrays, keys among them, are equal bit for bit."""
    assert jax.tree.all(jax.tree.map(_equal, first, second))


def _equal(first: Any, second: Any) -> bool:
    if jax.numpy.issubdtype(first.dtype, jax.dtypes.prng_key):
        first, second = jax.random.key_data(first), jax.random.key_data(second)
    first, second = np.asarray(first), np.asarray(second)
    same_kind = (first.shape, first.dtype) == (second.shape, second.dtype)
    return same_kind and first.tobytes() == second.tobytes()  # NaN is equal to itself


def error_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The one line of the `UserError` that a call must end in."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)
