"""Images out of a trained model: reconstructions, samples and interpolations.

Images come in as `<uint8>[n, 28, 28]` and go out as pixel means in [0, 1].
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vae_jax import datasets
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.vae import VAE
from vae_jax.training import steps

# Images at once: a device's memory need not hold the feature maps of all.
_BATCH_SIZE = 500


def _in_batches(function: Callable[[np.ndarray], Any], rows: np.ndarray) -> Any:
    """What a function that maps rows one by one gives for all of them, as NumPy arrays."""
    pieces = [
        jax.device_get(function(rows[start : start + _BATCH_SIZE]))
        for start in range(0, len(rows), _BATCH_SIZE)
    ]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *pieces)


def encode(model: VAE, params: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-variance of q(z | x), each `<float>[n, latent]`."""
    return _in_batches(lambda batch: steps.encode(model, params, batch), images)


def decode(model: VAE, params: Any, latents: np.ndarray) -> np.ndarray:
    """Decodes latent vectors `<float>[n, latent]`: `<float>[n, 28, 28]`."""
    return _in_batches(lambda batch: steps.decode(model, params, batch), latents)


def reconstruct(model: VAE, params: Any, images: np.ndarray) -> np.ndarray:
    """Decodes the posterior mean of each image: `<float>[n, 28, 28]`."""
    return decode(model, params, encode(model, params, images)[0])


def sample_many(model: VAE, params: Any, root_key: jax.Array, num_images: int) -> np.ndarray:
    """Samples to be measured, `<float>[num_images, 28, 28]`: other ones than `sample_prior`'s."""
    key = stream_key(root_key, Stream.MEASURED_SAMPLES)
    return decode(model, params, np.asarray(model.prior.sample(key, num_images)))


def manifold(model: VAE, params: Any, num_steps: int) -> np.ndarray:
    """Decodes a grid over a latent space of two dimensions.

    The grid's lines are the quantiles of the standard normal, so that each image stands for the
    same prior probability (Kingma and Welling 2014, appendix A).

    Returns:
      `<float>[num_steps, num_steps, 28, 28]`; the first latent variable grows to the right, the
      second upwards.
    """
    quantiles = (np.arange(num_steps) + 0.5) / num_steps
    values = np.asarray(jax.scipy.stats.norm.ppf(quantiles))
    across, up = np.meshgrid(values, values[::-1])
    latents = np.stack([across, up], -1).reshape(-1, 2).astype(np.float32)
    return decode(model, params, latents).reshape(num_steps, num_steps, *datasets.IMAGE_SHAPE)


def sample_prior(model: VAE, params: Any, root_key: jax.Array, num_images: int) -> np.ndarray:
    """Decodes random latent vectors: `<float>[num_images, 28, 28]`, decided by the key."""
    return np.asarray(steps.generate(model, params, root_key, num_images))


def interpolate(
    model: VAE, params: Any, first: np.ndarray, last: np.ndarray, num_steps: int
) -> np.ndarray:
    """Decodes evenly spaced points on the line between two images' posterior means.

    Args:
      model: the autoencoder.
      params: its parameters.
      first: `<uint8>[n, 28, 28]`, where each row begins.
      last: `<uint8>[n, 28, 28]`, where it ends.
      num_steps: points on the line, both ends among them, at least 2.

    Returns:
      `<float>[n, num_steps, 28, 28]`.
    """
    begin, _ = encode(model, params, first)
    end, _ = encode(model, params, last)
    weights = np.linspace(0.0, 1.0, num_steps, dtype=np.float32)[None, :, None]
    latents = begin[:, None] * (1.0 - weights) + end[:, None] * weights
    images = decode(model, params, latents.reshape(-1, latents.shape[-1]))
    return images.reshape(len(first), num_steps, *images.shape[1:])


def pairs_of_different_classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picks, for each class, an image of it and an image of the next class.

    Args:
      labels: `<uint8>[n]`, with at least two classes present.

    Returns:
      `(first, last)`: indices, one pair for each class present, no index twice in either.
    """
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    first = [of_class[0] for of_class in places]
    # The second image of the next class where there is one, so that rows share no digit.
    last = [of_class[min(1, len(of_class) - 1)] for of_class in places[1:] + places[:1]]
    return np.array(first), np.array(last)
