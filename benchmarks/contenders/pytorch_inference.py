"""What users do with a trained model, in PyTorch: batches, without gradients, eager or compiled."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from contenders.pytorch_params import copy_params
from contenders.pytorch_vae import VAE
from torch import nn
from torch.nn import functional

_BATCH_SIZE = 500


class _Inference(nn.Module):
    """The functions of the tasks, each of a batch."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes to intensities."""
        return torch.sigmoid(self.vae.decoder(latents))

    def log_weights(
        self, targets: torch.Tensor, mean: torch.Tensor, log_var: torch.Tensor
    ) -> torch.Tensor:
        """Draws a latent vector for each image: log p(x | z) + log p(z) - log q(z | x)."""
        noise = torch.randn_like(mean)
        latents = mean + torch.exp(0.5 * log_var) * noise
        reconstruction = functional.binary_cross_entropy_with_logits(
            self.vae.decoder(latents), targets, reduction="none"
        )
        difference = log_var + noise.square() - latents.square()  # of the two log-densities, twice
        return 0.5 * difference.sum(1) - reconstruction.sum(1)


class Contender:
    """Does a task of `benchmarks/inference.py`; see `benchmarks/worker.py` for what each does."""

    def __init__(self, variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        torch.manual_seed(config["seed"])
        on_gpu = torch.cuda.is_available()
        if on_gpu:  # as JAX does by default: products of 32-bit floats in TensorFloat-32
            torch.set_float32_matmul_precision("high")
        self._device = torch.device("cuda" if on_gpu else "cpu")
        vae = VAE(config, channels_last="channels last" in variant)
        copy_params(vae, arrays)
        functions = _Inference(vae.to(self._device).eval())
        self._latent_size = config["latent_size"]
        self._functions = [vae.encoder, functions.decode, functions.log_weights]
        if "compiled" in variant:
            self._functions = [torch.compile(function) for function in self._functions]
        self._images, self._binarized = arrays["images"], arrays["binarized"]
        self._num_samples = int(arrays["num_samples"])
        self.device = torch.cuda.get_device_name() if on_gpu else "cpu"
        self.version = f"PyTorch {torch.__version__}"

    def facts(self) -> dict[str, Any]:
        """Nothing is asked for."""
        return {}

    @torch.inference_mode()
    def run(self, task: str) -> list[float]:
        """Does a task; returns numbers to compare."""
        if task == "sample":
            return [float(self._sample(len(self._images)).mean())]
        if task == "encode":
            mean, log_var = self._encode(self._images)
            return [*mean[0].tolist(), *log_var[0].tolist()]
        return self._log_likelihood(self._binarized).tolist()

    def _batches(self, images: np.ndarray) -> list[torch.Tensor]:
        pixels = torch.from_numpy(images[..., 0])
        return [batch.to(self._device).float() / 255 for batch in pixels.split(_BATCH_SIZE)]

    def _sample(self, num_images: int) -> np.ndarray:
        latents = torch.randn(num_images, self._latent_size, device=self._device)
        decode = self._functions[1]
        return torch.cat([decode(batch).cpu() for batch in latents.split(_BATCH_SIZE)]).numpy()

    def _encode(self, images: np.ndarray) -> list[np.ndarray]:
        pairs = [self._functions[0](batch) for batch in self._batches(images)]
        return [torch.cat(tensors).cpu().numpy() for tensors in zip(*pairs, strict=True)]

    def _log_likelihood(self, images: np.ndarray) -> np.ndarray:
        encode, _, log_weights = self._functions
        estimates = []
        for pixels in self._batches(images):
            mean, log_var = encode(pixels)
            targets = pixels.flip(1, 2).flatten(1)  # as the decoder's: see `copy_params`
            weights = [log_weights(targets, mean, log_var) for _ in range(self._num_samples)]
            estimates.append(torch.logsumexp(torch.stack(weights), 0))
        return torch.cat(estimates).cpu().numpy() - math.log(self._num_samples)
