"""The parameters of a model in Flax for the same one in PyTorch."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from common import IMAGE_SIZE
from contenders.pytorch_vae import VAE, Decoder, Encoder, ResidualBlock
from torch import nn

_Pair = tuple[nn.Parameter, np.ndarray]


def _gates(arrays: Mapping[str, np.ndarray], prefix: str, what: str) -> np.ndarray:
    """Puts the four gates of an LSTM side by side; PyTorch has the same order."""
    return np.concatenate([arrays[f"{prefix}{gate}/{what}"] for gate in "ifgo"], axis=-1)


def _encoder_params(encoder: Encoder, arrays: Mapping[str, np.ndarray]) -> Iterator[_Pair]:
    lstm = encoder.lstm
    for layer in range(lstm.num_layers):
        for way, suffix in (("", ""), ("_backward", "_reverse"))[: 1 + lstm.bidirectional]:
            name = f"encoder/lstm_{layer}{way}/" if layer else f"encoder/lstm{way}/"
            place = f"_l{layer}{suffix}"
            yield getattr(lstm, f"weight_ih{place}"), _gates(arrays, f"{name}i", "kernel").T
            yield getattr(lstm, f"weight_hh{place}"), _gates(arrays, f"{name}h", "kernel").T
            bias = _gates(arrays, f"{name}h", "bias")
            yield getattr(lstm, f"bias_hh{place}"), bias
            yield getattr(lstm, f"bias_ih{place}"), np.zeros_like(bias)
    names = [f"Dense_{index}" for index in range(len(encoder.mlp) // 2)]
    layers = [*encoder.mlp[::2], encoder.mean, encoder.log_var]
    for name, layer in zip((*names, "mean", "log_var"), layers, strict=True):
        yield layer.weight, arrays[f"encoder/{name}/kernel"].T
        yield layer.bias, arrays[f"encoder/{name}/bias"]


def _decoder_params(decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Iterator[_Pair]:
    def of(name: str) -> tuple[np.ndarray, np.ndarray]:
        return arrays[f"decoder/{name}/kernel"], arrays[f"decoder/{name}/bias"]

    def of_convolution(name: str) -> tuple[np.ndarray, np.ndarray]:
        kernel, bias = of(name)
        return kernel[::-1, ::-1].transpose(3, 2, 0, 1), bias

    for index, layer in enumerate(decoder.dense[::2]):
        kernel, bias = of(f"Dense_{index}")
        if index == len(decoder.dense) // 2 - 1:  # it fills the grid
            channels, *grid = decoder.grid
            kernel, bias = (
                np.moveaxis(a.reshape(-1, *grid, channels)[:, ::-1, ::-1], -1, 1)
                for a in (kernel, bias)
            )
        yield layer.weight, kernel.reshape(len(kernel), -1).T
        yield layer.bias, bias.reshape(-1)
    blocks = convolutions = 0
    for module in decoder.maps:
        if isinstance(module, nn.ConvTranspose2d):
            kernel, bias = of(f"ConvTranspose_{convolutions}")
            yield from ((module.weight, kernel.transpose(2, 3, 0, 1)), (module.bias, bias))
            convolutions += 1
        elif isinstance(module, ResidualBlock):
            for index, layer in enumerate((module.first, module.second)):
                kernel, bias = of_convolution(f"ResidualBlock_{blocks}/ConvTranspose_{index}")
                yield from ((layer.weight, kernel), (layer.bias, bias))
            blocks += 1
    head = next(layer for layer in decoder.logits if not isinstance(layer, nn.Flatten))
    if isinstance(head, nn.Conv2d):
        kernel, bias = of_convolution("logits")
    else:
        kernel, bias = of("logits")
        maps = kernel.reshape(IMAGE_SIZE, IMAGE_SIZE, -1, IMAGE_SIZE**2)
        kernel = maps[::-1, ::-1, :, ::-1].transpose(3, 2, 0, 1).reshape(IMAGE_SIZE**2, -1)
        bias = bias[::-1]
    yield from ((head.weight, kernel), (head.bias, bias))


def copy_params(vae: VAE, arrays: Mapping[str, np.ndarray]) -> None:
    """Gives a model the parameters of the same one in Flax, by their paths.

    At stride 2 PyTorch crops a transposed convolution on the other sides than JAX: the decoder is
    that of images turned upside down, top to bottom and left to right.
    """
    pairs = [*_encoder_params(vae.encoder, arrays), *_decoder_params(vae.decoder, arrays)]
    assert len(pairs) == len([*vae.parameters()])
    with torch.no_grad():
        for parameter, values in pairs:
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))
