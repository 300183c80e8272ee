"""Images out of a trained model: reconstructions, samples and interpolations.

Images come in as `<uint8>[n, 28, 28]` and go out as pixel means in [0, 1].
"""

from typing import Any

import jax
import numpy as np

from vae_jax import steps
from vae_jax.vae import VAE


def reconstruct(model: VAE, params: Any, images: np.ndarray) -> np.ndarray:
    """Decodes the posterior mean of each image: `<float>[n, 28, 28]`."""
    mean, _ = steps.encode(model, params, images)
    return np.asarray(steps.decode(model, params, mean))


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
    begin, _ = steps.encode(model, params, first)
    end, _ = steps.encode(model, params, last)
    weights = np.linspace(0.0, 1.0, num_steps, dtype=np.float32)[None, :, None]
    latents = begin[:, None] * (1.0 - weights) + end[:, None] * weights
    images = steps.decode(model, params, latents.reshape(-1, latents.shape[-1]))
    return np.asarray(images).reshape(len(first), num_steps, *images.shape[1:])


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
