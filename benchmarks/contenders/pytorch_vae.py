"""The model of a configuration in PyTorch, as its users write it."""

import itertools
import math
from typing import Any

import torch
from common import IMAGE_SIZE, decoder_sizes
from torch import nn
from torch.nn import functional

_ACTIVATIONS = {"relu": nn.ReLU, "swish": nn.SiLU}


class ResidualBlock(nn.Module):
    """Two convolutions, each after the activation, added to their input; the second begins at 0."""

    def __init__(self, channels: int, activation: type[nn.Module]):
        super().__init__()
        self.activation = activation()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `<float>[batch, channels, height, width]` to the same shape."""
        return x + self.second(self.activation(self.first(self.activation(x))))


def _initialize(module: nn.Module) -> None:
    """Begins as Keras does: PyTorch's own random biases would shift the first loss."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):  # after what it is made of
        nn.init.zeros_(module.second.weight)


def _dense_layers(sizes: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*(layer for pair in pairs for layer in (nn.Linear(*pair), activation())))


class Encoder(nn.Module):
    """LSTMs over the rows of an image, dense layers, two heads."""

    def __init__(self, latent_size: int, config: dict[str, Any]):
        super().__init__()
        hidden, both_ways = config["hidden_size"], config["bidirectional"]
        self.lstm = nn.LSTM(
            IMAGE_SIZE, hidden, config["num_layers"], batch_first=True, bidirectional=both_ways
        )
        sizes = (IMAGE_SIZE * hidden * (1 + both_ways), *config["mlp_sizes"])
        self.mlp = _dense_layers(sizes, _ACTIVATIONS[config["activation"]])
        self.mean = nn.Linear(sizes[-1], latent_size)
        self.log_var = nn.Linear(sizes[-1], latent_size)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps `<float>[batch, 28, 28]` pixels to mean and log-variance."""
        outputs, _ = self.lstm(pixels)
        features = self.mlp(outputs.flatten(1))
        return self.mean(features), self.log_var(features)


class Decoder(nn.Module):
    """Dense layers, a grid, transposed convolutions with residual blocks, a head."""

    def __init__(self, latent_size: int, config: dict[str, Any], channels_last: bool):
        super().__init__()
        dense_sizes, (height, width, channels) = decoder_sizes(config)
        filters, activation = config["filters"], _ACTIVATIONS[config["activation"]]
        self.grid = (channels, height, width)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.dense = _dense_layers((latent_size, *dense_sizes), activation)
        self.maps = nn.Sequential()
        blocks = config["residual_blocks"] or (0,) * len(filters)
        pairs = itertools.pairwise((channels, *filters))
        for (before, after), stride, count in zip(pairs, config["strides"], blocks, strict=True):
            self.maps.append(
                nn.ConvTranspose2d(before, after, 3, stride, padding=1, output_padding=stride - 1)
            )
            self.maps.extend(ResidualBlock(after, activation) for _ in range(count))
            self.maps.append(activation())
        if config["head"] == "conv":
            self.logits = nn.Sequential(nn.Conv2d(filters[-1], 1, 3, padding=1), nn.Flatten())
        else:
            num_features = filters[-1] * IMAGE_SIZE**2
            self.logits = nn.Sequential(nn.Flatten(), nn.Linear(num_features, IMAGE_SIZE**2))
        self.to(memory_format=self._layout)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Maps `<float>[batch, latent]` to logits `<float>[batch, 784]`."""
        grid = self.dense(latents).unflatten(1, self.grid).contiguous(memory_format=self._layout)
        return self.logits(self.maps(grid))


class VAE(nn.Module):
    """The LSTM encoder and transposed-convolution decoder of a configuration."""

    def __init__(self, config: dict[str, Any], channels_last: bool = False):
        super().__init__()
        self.encoder = Encoder(config["latent_size"], config["encoder"])
        self.decoder = Decoder(config["latent_size"], config["decoder"], channels_last)
        self.apply(_initialize)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Computes the loss of `<float>[batch, 28, 28]` pixels, in nats per image."""
        mean, log_var = self.encoder(pixels)
        latents = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        reconstruction = functional.binary_cross_entropy_with_logits(
            self.decoder(latents), pixels.flatten(1), reduction="sum"
        )
        kl = -0.5 * torch.sum(1 + log_var - mean.square() - log_var.exp())
        return (reconstruction + kl) / len(pixels)

    @property
    def num_parameters(self) -> int:
        """How many numbers it learns."""
        return sum(math.prod(p.shape) for p in self.parameters())
