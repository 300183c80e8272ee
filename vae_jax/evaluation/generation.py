"""Images out of a trained model: reconstructions, samples and interpolations.

Images come in as `<uint8>[n, height, width]` and go out as means of the pixels, `<float>`, in
[0, 1].
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vae_jax.model.likelihoods import to_intensities
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime.batching import map_batches

# Images at once: a device's memory need not hold the feature maps of all. Two sizes, so that few
# programs are compiled.
_BATCH_SIZE = 500
_SMALL_BATCH_SIZE = 100


@functools.partial(jax.jit, static_argnames="model")
def encode_batch(model: VAE, params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encodes a batch: mean and log-variance of q(z | x), each `<float>[batch, latent]`."""
    return apply(model, params, to_intensities(images), method="encode")


@functools.partial(jax.jit, static_argnames="model")
def decode_batch(model: VAE, params: Params, latents: jax.Array) -> jax.Array:
    """Decodes a batch `<float>[batch, latent]`: `<float>[batch, height, width]`."""
    outputs = apply(model, params, latents, method="decode")
    return model.likelihood.mean(outputs)


def _map_batches(function: Callable[[Any], Any], rows: np.ndarray) -> Any:
    is_small = len(rows) <= _SMALL_BATCH_SIZE
    return map_batches(function, _SMALL_BATCH_SIZE if is_small else _BATCH_SIZE, rows)


def encode(model: VAE, params: Params, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encodes images: mean and log-variance of q(z | x), each `<float>[n, latent]`."""
    return _map_batches(functools.partial(encode_batch, model, params), images)


def decode(model: VAE, params: Params, latents: np.ndarray) -> np.ndarray:
    """Decodes latent vectors `<float>[n, latent]`: `<float>[n, height, width]`."""
    return _map_batches(functools.partial(decode_batch, model, params), latents)


def reconstruct(model: VAE, params: Params, images: np.ndarray) -> np.ndarray:
    """Decodes the posterior mean of each image: `<float>[n, height, width]`."""
    return decode(model, params, encode(model, params, images)[0])


def sample(
    model: VAE,
    params: Params,
    root_key: jax.Array,
    num_images: int,
    stream: Stream = Stream.PRIOR_SAMPLES,
) -> np.ndarray:
    """Decodes latent vectors drawn from the prior: `<float>[num_images, height, width]`.

    Args:
      model: the autoencoder.
      params: its parameters.
      root_key: the run's root key.
      num_images: how many.
      stream: what they are for: other streams give other samples.
    """
    latents = model.prior.sample(stream_key(root_key, stream), num_images)
    return decode(model, params, np.asarray(latents))


def sample_for_metrics(
    model: VAE, params: Params, root_key: jax.Array, num_images: int
) -> np.ndarray:
    """Samples images to be measured, other ones than those of the plot."""
    return sample(model, params, root_key, num_images, Stream.MEASURED_SAMPLES)


def manifold(model: VAE, params: Params, num_steps: int) -> np.ndarray:
    """Decodes a grid over a latent space of two dimensions.

    The grid's lines are the quantiles of the standard normal, so that each image stands for the
    same prior probability (Kingma and Welling 2014, appendix A).

    Returns:
      `<float>[num_steps, num_steps, height, width]`; the first latent variable grows to the
      right, the second upwards.
    """
    quantiles = (np.arange(num_steps) + 0.5) / num_steps
    values = np.asarray(jax.scipy.stats.norm.ppf(quantiles))
    across, up = np.meshgrid(values, values[::-1])
    latents = np.stack([across, up], -1).reshape(-1, 2).astype(np.float32)
    images = decode(model, params, latents)
    return images.reshape(num_steps, num_steps, *images.shape[1:])


def interpolate(
    model: VAE, params: Params, first: np.ndarray, last: np.ndarray, num_steps: int
) -> np.ndarray:
    """Decodes evenly spaced points on the line between two images' posterior means.

    Args:
      model: the autoencoder.
      params: its parameters.
      first: `<uint8>[n, height, width]`, where each row begins.
      last: `<uint8>[n, height, width]`, where it ends.
      num_steps: points on the line, both ends among them, at least 2.

    Returns:
      `<float>[n, num_steps, height, width]`.
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
