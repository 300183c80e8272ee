"""The same model in PyTorch: eager, with the fused optimizer, and compiled."""

import itertools
import math
from typing import Any

import numpy as np
import torch
from common import decoder_sizes
from torch import nn
from torch.nn import functional

_IMAGE_SIZE = 28


class _VAE(nn.Module):
    """The LSTM encoder and transposed-convolution decoder of a configuration."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        hidden, latent = config["encoder"]["hidden_size"], config["latent_size"]
        decoder = config["decoder"]
        dense_sizes, (height, width, channels) = decoder_sizes(decoder, _IMAGE_SIZE)
        self._grid = (channels, height, width)
        self.lstm = nn.LSTM(_IMAGE_SIZE, hidden, batch_first=True)
        self.mean = nn.Linear(_IMAGE_SIZE * hidden, latent)
        self.log_var = nn.Linear(_IMAGE_SIZE * hidden, latent)
        sizes = itertools.pairwise((latent, *dense_sizes))
        self.dense = nn.Sequential(
            *(layer for pair in sizes for layer in (nn.Linear(*pair), nn.ReLU()))
        )
        maps = []
        pairs = itertools.pairwise((channels, *decoder["filters"]))
        for (before, after), stride in zip(pairs, decoder["strides"], strict=True):
            convolution = nn.ConvTranspose2d(
                before, after, 3, stride, padding=1, output_padding=stride - 1
            )
            maps += [convolution, nn.ReLU()]
        self.maps = nn.Sequential(*maps)
        self.logits = nn.Linear(decoder["filters"][-1] * _IMAGE_SIZE**2, _IMAGE_SIZE**2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Computes the loss of `<float>[batch, 28, 28]` pixels, in nats per image."""
        outputs, _ = self.lstm(pixels)
        features = outputs.flatten(1)
        mean, log_var = self.mean(features), self.log_var(features)
        latents = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        maps = self.maps(self.dense(latents).unflatten(1, self._grid))
        logits = self.logits(maps.flatten(1))
        reconstruction = functional.binary_cross_entropy_with_logits(
            logits, pixels.flatten(1), reduction="sum"
        )
        kl = -0.5 * torch.sum(1 + log_var - mean.square() - log_var.exp())
        return (reconstruction + kl) / len(pixels)


class Contender:
    """Trains the model of a configuration; see `benchmarks/worker.py` for what each does."""

    def __init__(self, variant: str, config: dict[str, Any], images: np.ndarray):
        torch.manual_seed(config["seed"])
        on_gpu = torch.cuda.is_available()
        device = torch.device("cuda" if on_gpu else "cpu")
        self._batch_size = config["train"]["batch_size"]
        self._pixels = torch.tensor(images[..., 0], device=device).float() / 255
        self._model = _VAE(config).to(device)
        self._loss = torch.compile(self._model) if "compiled" in variant else self._model
        self._optimizer = torch.optim.Adam(
            self._model.parameters(), config["train"]["learning_rate"], fused="fused" in variant
        )
        self.num_parameters = sum(math.prod(p.shape) for p in self._model.parameters())
        self.device = torch.cuda.get_device_name() if on_gpu else "cpu"
        self.version = f"PyTorch {torch.__version__}"

    def _step(self, batch: int) -> torch.Tensor:
        pixels = self._pixels[batch * self._batch_size : (batch + 1) * self._batch_size]
        loss = self._loss(pixels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss

    def first_loss(self) -> float:
        """Takes the first step; returns its loss, in nats per image."""
        return self._step(0).item()

    def run(self, num_steps: int) -> None:
        """Takes steps over the first batches; returns when the last is done."""
        for batch in range(num_steps):
            loss = self._step(batch)
        loss.item()
