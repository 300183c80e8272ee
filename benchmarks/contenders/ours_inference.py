"""What users do with a trained model, through the public API."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

import vae_jax
from vae_jax import configuration
from vae_jax.datasets import DataSpec
from vae_jax.training.settings import evaluation_settings

vae_jax.compilation.set_cpu_flags()


class Contender:
    """Does a task of `benchmarks/inference.py`; see `benchmarks/worker.py` for what each does."""

    def __init__(self, variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        del variant
        checked = configuration.from_dict(config)
        model = evaluation_settings(checked, DataSpec((28, 28, 1))).model
        flat = {name: arrays[name] for name in arrays if "/" in name}
        params = jax.device_put(unflatten_dict(flat, sep="/"))
        # What `vae_jax.load_run` returns of a run.
        self._vae = vae_jax.TrainedVAE(model, params, checked, checked.seed)
        self._images, self._binarized = arrays["images"], arrays["binarized"]
        self._num_samples = int(arrays["num_samples"])
        self.device = jax.devices()[0].device_kind
        self.version = f"JAX {jax.__version__}"

    def facts(self) -> dict[str, Any]:
        """Nothing is asked for."""
        return {}

    def run(self, task: str) -> list[float]:
        """Does a task; returns numbers to compare."""
        if task == "sample":
            return [float(self._vae.sample(len(self._images)).mean())]
        if task == "encode":
            mean, log_var = self._vae.encode(self._images)
            return [*mean[0].tolist(), *log_var[0].tolist()]
        return self._vae.log_likelihood(self._binarized, num_samples=self._num_samples).tolist()
