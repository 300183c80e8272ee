"""The training step in Flax, as chunks of a compiled epoch and as single calls."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vae_jax import configuration
from vae_jax.datasets import DataSpec
from vae_jax.model.structs import Batch
from vae_jax.training import steps
from vae_jax.training.metrics import StepMetrics
from vae_jax.training.settings import train_settings
from vae_jax.training.train_state import num_parameters

_STEPS_PER_CALL = steps.MAX_CHUNK_STEPS


class Trainer:
    """Trains the model of a configuration; see `benchmarks/worker.py` for what each does."""

    def __init__(self, variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        images = arrays["images"]
        checked = configuration.from_dict(config)
        self._take = self._call_each if variant == "single calls" else self._call_once
        steps_per_epoch = len(images) // checked.train.batch_size
        self._settings = train_settings(checked, DataSpec((28, 28, 1)), steps_per_epoch)
        self._data = jax.device_put(Batch(images))
        self._state = steps.initial_state(self._settings, checked.seed)
        self._order = steps.epoch_order(self._settings, self._state.root_key, 1, len(images))
        self.device = jax.devices()[0].device_kind
        self.version = f"JAX {jax.__version__}"

    def facts(self) -> dict[str, Any]:
        """Takes the first step; returns its loss, in nats per image, and the model's size."""
        loss = float(jax.numpy.ravel(self._take(0, 1).sums["loss"])[0]) / self._settings.batch_size
        return {"first_loss": loss, "num_parameters": num_parameters(self._state.params)}

    def run(self, num_steps: int) -> None:
        """Takes steps over the epoch's first batches; returns when the last is done."""
        for first in range(0, num_steps, _STEPS_PER_CALL):
            jax.block_until_ready(self._take(first, min(_STEPS_PER_CALL, num_steps - first)))

    def program(self) -> str:
        """Returns the compiled epoch as XLA's text."""
        arguments = (self._settings, self._state, self._data, self._order, 0, _STEPS_PER_CALL)
        return steps.train_chunk.lower(*arguments).compile().as_text()

    def _call_once(self, first: int, count: int) -> StepMetrics:
        self._state, metrics = steps.train_chunk(
            self._settings, self._state, self._data, self._order, first, count
        )
        return metrics

    def _call_each(self, first: int, count: int) -> StepMetrics:
        for batch in range(first, first + count):
            metrics = self._call_once(batch, 1)
        return metrics
