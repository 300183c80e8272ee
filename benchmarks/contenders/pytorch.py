"""The model of a configuration in PyTorch, as its users write it: steps, whole runs, inference.

`train_run.py` starts this file as a program. PyTorch compiles no LSTM: there, with `--compiled`,
the decoder is compiled and Adam is fused.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import common
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

_ACTIVATIONS = {"relu": nn.ReLU, "swish": nn.SiLU}
_BATCH_SIZE = 500  # of inference
_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    """Initializes as Keras does: PyTorch's own random biases would shift the first loss."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):  # after its layers
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
            28, hidden, config["num_layers"], batch_first=True, bidirectional=both_ways
        )
        sizes = (28 * hidden * (1 + both_ways), *config["mlp_sizes"])
        self.mlp = _dense_layers(sizes, _ACTIVATIONS[config["activation"]])
        self.mean = nn.Linear(sizes[-1], latent_size)
        self.log_var = nn.Linear(sizes[-1], latent_size)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps `<float>[batch, 28, 28]` pixels to mean and log-variance."""
        features = self.mlp(self.lstm(pixels)[0].flatten(1))
        return self.mean(features), self.log_var(features)


class Decoder(nn.Module):
    """Dense layers, a grid, transposed convolutions with residual blocks, a head."""

    def __init__(self, latent_size: int, config: dict[str, Any], channels_last: bool):
        super().__init__()
        dense_sizes, (height, width, channels) = common.decoder_sizes(config)
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
            self.logits = nn.Sequential(nn.Flatten(), nn.Linear(filters[-1] * 28**2, 28**2))
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

    def log_weights(
        self, pixels: torch.Tensor, mean: torch.Tensor, log_var: torch.Tensor
    ) -> torch.Tensor:
        """Draws latents; returns log p(x | z) + log p(z) - log q(z | x), `<float>[batch]`."""
        noise = torch.randn_like(mean)
        latents = mean + torch.exp(0.5 * log_var) * noise
        cross_entropy = functional.binary_cross_entropy_with_logits(
            self.decoder(latents), pixels.flatten(1), reduction="none"
        )
        twice_difference = log_var + noise.square() - latents.square()
        return 0.5 * twice_difference.sum(1) - cross_entropy.sum(1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Computes the loss of `<float>[batch, 28, 28]` pixels, in nats per image."""
        mean, log_var = self.encoder(pixels)
        latents = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        reconstruction = functional.binary_cross_entropy_with_logits(
            self.decoder(latents), pixels.flatten(1), reduction="sum"
        )
        kl = -0.5 * torch.sum(1 + log_var - mean.square() - log_var.exp())
        return (reconstruction + kl) / len(pixels)


def _optimizer(model: VAE, train: dict[str, Any], fused: bool) -> torch.optim.Optimizer:
    """Makes Adam, with the configuration's decay of the kernels."""
    rate, decay = train["learning_rate"], train["weight_decay"]
    kernels = [p for name, p in model.named_parameters() if "bias" not in name]
    biases = [p for name, p in model.named_parameters() if "bias" in name]
    groups = [{"params": kernels}, {"params": biases, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, weight_decay=decay, fused=fused)


class Trainer:
    """Takes training steps: eager or compiled, with fused Adam, with the channels last."""

    def __init__(self, variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        train = config["train"]
        self._batch_size = train["batch_size"]
        self._binarize = config["data"]["binarization"] == "dynamic"
        self._pixels = torch.tensor(arrays["images"][..., 0], device=_DEVICE).float() / 255
        self._model = VAE(config, channels_last="last" in variant).to(_DEVICE)
        self._loss = torch.compile(self._model) if "compiled" in variant else self._model
        self._optimizer = _optimizer(self._model, train, fused="fused" in variant)
        average = get_ema_multi_avg_fn(train["ema_decay"])
        self._average = train["ema_decay"] and AveragedModel(self._model, multi_avg_fn=average)

    def _step(self, batch: int) -> torch.Tensor:
        pixels = self._pixels[batch * self._batch_size : (batch + 1) * self._batch_size]
        loss = self._loss(torch.bernoulli(pixels) if self._binarize else pixels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._average:
            self._average.update_parameters(self._model)
        return loss

    def facts(self) -> dict[str, Any]:
        """Takes the first step; returns its loss, in nats per image, and the model's size."""
        size = sum(parameter.numel() for parameter in self._model.parameters())
        return {"first_loss": self._step(0).item(), "num_parameters": size}

    def run(self, num_steps: int) -> None:
        """Takes steps over the first batches; returns when the last is done."""
        for batch in range(num_steps):
            loss = self._step(batch)
        loss.item()


class Inference:
    """Does the tasks of `inference.py` in batches, without gradients, eager or compiled."""

    def __init__(self, variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        self._model = VAE(config, channels_last="last" in variant).to(_DEVICE).eval()
        self._latent_size = config["latent_size"]
        self._functions = [self._model.encoder, self._decode, self._model.log_weights]
        if "compiled" in variant:
            self._functions = [torch.compile(function) for function in self._functions]
        self._arrays = {name: arrays[name] for name in arrays}

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self._model.decoder(latents))

    @torch.inference_mode()
    def run(self, task: str) -> float:
        """Does a task; returns the mean of its results."""
        encode, decode, log_weights = self._functions
        if task == "sample":
            num_images = len(self._arrays["images"])
            latents = torch.randn(num_images, self._latent_size, device=_DEVICE)
            images = [decode(batch).cpu() for batch in latents.split(_BATCH_SIZE)]
            return torch.cat(images).mean().item()
        name = "images" if task == "encode" else "binarized"
        pixels = torch.from_numpy(self._arrays[name][..., 0]).split(_BATCH_SIZE)
        batches = [batch.to(_DEVICE).float() / 255 for batch in pixels]
        if task == "encode":
            return torch.cat([encode(batch)[0].cpu() for batch in batches]).mean().item()
        count, estimates = int(self._arrays["num_samples"]), []
        for batch in batches:
            posterior = encode(batch)
            weights = torch.stack([log_weights(batch, *posterior) for _ in range(count)])
            estimates.append(torch.logsumexp(weights, 0) - math.log(count))
        return torch.cat(estimates).mean().item()


def describe() -> str:
    """Names the library and the device."""
    device = torch.cuda.get_device_name() if _DEVICE.type == "cuda" else "cpu"
    return f"PyTorch {torch.__version__}, {device}"


def create(
    variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]
) -> Trainer | Inference:
    """Makes a contender of `train_step.py` or `inference.py`."""
    torch.manual_seed(config["seed"])
    torch.set_float32_matmul_precision("high")  # TensorFloat-32 on a GPU, as JAX does by default
    return (Inference if "inference" in variant else Trainer)(variant, config, arrays)


def main() -> None:
    """Trains with a DataLoader and a loop; saves the weights and samples."""
    arguments = common.parse_run_arguments()
    config, batch_size = arguments.config, arguments.config["train"]["batch_size"]
    torch.manual_seed(0)
    images = torch.tensor(common.read_images(arguments.data)).float() / 255
    held_out = DataLoader(TensorDataset(images[: common.VALIDATION_SIZE]), batch_size)
    loader = DataLoader(
        TensorDataset(images[common.VALIDATION_SIZE :]), batch_size, shuffle=True, drop_last=True
    )
    model = VAE(config).to(_DEVICE)
    if arguments.compiled:
        model.decoder.compile()
    optimizer = _optimizer(model, config["train"], fused=arguments.compiled)
    print("first step begins", flush=True)
    for epoch in range(1, common.NUM_EPOCHS + 1):
        losses = []
        for (pixels,) in loader:
            loss = model(pixels.to(_DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == 1:  # `train_run.py` takes the first such line
                print("first step done", flush=True)
        with torch.no_grad():
            held_out_losses = [model(pixels.to(_DEVICE)).item() for (pixels,) in held_out]
        means = f"train {np.mean(losses):.2f}, validation {np.mean(held_out_losses):.2f}"
        print(f"epoch {epoch}/{common.NUM_EPOCHS}: {means}", flush=True)
    torch.save(model.state_dict(), arguments.output / "vae.pt")
    with torch.no_grad():
        logits = model.decoder(torch.randn(100, config["latent_size"], device=_DEVICE))
    np.save(arguments.output / "samples.npy", torch.sigmoid(logits).cpu().numpy())


if __name__ == "__main__":
    main()
