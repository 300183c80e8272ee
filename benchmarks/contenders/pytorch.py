"""The training step in PyTorch: eager, fused, compiled; in either order of the axes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from contenders.pytorch_vae import VAE
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def _optimizer(model: VAE, train: dict[str, Any], fused: bool) -> torch.optim.Optimizer:
    """Makes Adam, with the decay of the kernels where there is one."""
    rate, decay = train["learning_rate"], train["weight_decay"]
    if not decay:
        return torch.optim.Adam(model.parameters(), rate, fused=fused)
    kernels = [p for name, p in model.named_parameters() if "bias" not in name]
    biases = [p for name, p in model.named_parameters() if "bias" in name]
    groups = [{"params": kernels}, {"params": biases, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, weight_decay=decay, fused=fused)


class Contender:
    """Trains the model of a configuration; see `benchmarks/worker.py` for what each does."""

    def __init__(self, variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        torch.manual_seed(config["seed"])
        on_gpu = torch.cuda.is_available()
        if on_gpu:  # as JAX does by default: products of 32-bit floats in TensorFloat-32
            torch.set_float32_matmul_precision("high")
        device = torch.device("cuda" if on_gpu else "cpu")
        train = config["train"]
        self._batch_size = train["batch_size"]
        self._binarize = config["data"]["binarization"] == "dynamic"
        self._pixels = torch.tensor(arrays["images"][..., 0], device=device).float() / 255
        self._model = VAE(config, channels_last="channels_last" in variant).to(device)
        self._loss = torch.compile(self._model) if "compiled" in variant else self._model
        self._optimizer = _optimizer(self._model, train, fused="fused" in variant)
        decay = train["ema_decay"]
        self._average = (
            AveragedModel(self._model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        )
        self.device = torch.cuda.get_device_name() if on_gpu else "cpu"
        self.version = f"PyTorch {torch.__version__}"

    def _step(self, batch: int) -> torch.Tensor:
        pixels = self._pixels[batch * self._batch_size : (batch + 1) * self._batch_size]
        if self._binarize:
            pixels = torch.bernoulli(pixels)
        loss = self._loss(pixels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._model)
        return loss

    def facts(self) -> dict[str, Any]:
        """Takes the first step; returns its loss, in nats per image, and the model's size."""
        return {"first_loss": self._step(0).item(), "num_parameters": self._model.num_parameters}

    def run(self, num_steps: int) -> None:
        """Takes steps over the first batches; returns when the last is done."""
        for batch in range(num_steps):
            loss = self._step(batch)
        loss.item()
