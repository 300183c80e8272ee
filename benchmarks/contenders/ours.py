"""This project: its training step as the command line runs it, and trained models in Python."""

import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import vae_jax
from vae_jax import configuration
from vae_jax.datasets import DataSpec
from vae_jax.model import decoders
from vae_jax.model.structs import Batch
from vae_jax.runtime import devices, division
from vae_jax.runtime.cores import available_cores
from vae_jax.training import steps
from vae_jax.training.metrics import StepMetrics
from vae_jax.training.settings import train_settings
from vae_jax.training.train_state import num_parameters


def describe() -> str:
    """Names the library and the device."""
    return f"JAX {jax.__version__}, {jax.devices()[0].device_kind}"


class Trainer:
    """Takes training steps.

    Variants: "command line", which divides a batch over the cores if the model is small, "divided"
    and "one device", which do so always and never, and "plain Flax", which calls each step.
    """

    def __init__(self, variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        if variant == "plain Flax":  # the library's transposed convolution, no options of XLA
            decoders.ConvTranspose = nn.ConvTranspose
        images, checked = arrays["images"], configuration.from_dict(config)
        train, num_steps = checked.train, len(images) // checked.train.batch_size
        self._chunk = 1 if variant == "plain Flax" else steps.MAX_CHUNK_STEPS
        settings = train_settings(checked, DataSpec((28, 28, 1)), num_steps)
        size = num_parameters(steps.abstract_state(settings).params)
        divisible = settings.evaluation.divisible_shape
        mesh = division.make_mesh(train.num_replicas, train.batch_size, size, divisible)
        self._settings = settings.on_mesh(mesh)
        self._data = devices.replicate(Batch(images), mesh)
        self._state = steps.initial_state(self._settings, checked.seed)
        self._order = steps.epoch_order(self._settings, self._state.root_key, 1, len(images))

    def facts(self) -> dict[str, Any]:
        """Takes the first step; returns its loss, in nats per image, and the model's size."""
        loss = float(jax.numpy.ravel(self._take(0, 1).sums["loss"])[0]) / self._settings.batch_size
        return {"first_loss": loss, "num_parameters": num_parameters(self._state.params)}

    def run(self, num_steps: int) -> None:
        """Takes steps over the epoch's first batches; returns when the last is done."""
        for first in range(0, num_steps, self._chunk):
            metrics = self._take(first, min(self._chunk, num_steps - first))
        jax.block_until_ready(metrics)

    def _take(self, first: int, count: int) -> StepMetrics:
        self._state, metrics = steps.train_chunk(
            self._settings, self._state, self._data, self._order, first, count
        )
        return metrics


class Inference:
    """Does the tasks of `inference.py` through the public API."""

    def __init__(self, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        checked = configuration.from_dict(config)
        settings = train_settings(checked, DataSpec((28, 28, 1)), steps_per_epoch=1)
        params = steps.initial_state(settings, checked.seed).params
        self._vae = vae_jax.TrainedVAE(settings.evaluation.model, params, checked, checked.seed)
        self._images, self._binarized = arrays["images"], arrays["binarized"]
        self._num_samples = int(arrays["num_samples"])

    def run(self, task: str) -> float:
        """Does a task; returns the mean of its results."""
        if task == "sample":
            return float(self._vae.sample(len(self._images)).mean())
        if task == "encode":
            return float(self._vae.encode(self._images)[0].mean())
        values = self._vae.log_likelihood(self._binarized, num_samples=self._num_samples)
        return float(values.mean())


def create(
    variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]
) -> Trainer | Inference:
    """Makes a contender of `train_step.py` or `inference.py`."""
    if variant == "divided":
        os.environ["JAX_NUM_CPU_DEVICES"] = str(available_cores())
        jax.config.update("jax_num_cpu_devices", available_cores())
    elif variant in ("command line", "inference"):
        division.offer_cores()
    if variant != "plain Flax":
        vae_jax.compilation.set_cpu_flags()
    return Inference(config, arrays) if variant == "inference" else Trainer(variant, config, arrays)
