"""Images out of a trained model: reconstructions, samples and interpolations.

Images are `[n, height, width, channels]`, those that come out means of intensities in [0, 1]. Of a
batch that is decoded, only the labels are read.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import numpy as np

from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import FlowPrior
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime import devices, division
from vae_jax.runtime.batching import iterate_batches, map_batches, pad_rows

# Images at once, which limits the memory of feature maps. Two sizes, so few programs are compiled.
_BATCH_SIZE = 500
_SMALL_BATCH_SIZE = 100
NOTHING = Batch()  # for images without labels


@functools.partial(jax.jit, static_argnames=("model", "method"))
def _call(
    model: VAE, params: Params, method: Callable[..., Any], *rows: Any, shared: tuple = ()
) -> Any:
    """Calls a method of rows, and of arguments before them that all rows share."""

    def call(params_and_shared: tuple, *rows: Any) -> Any:
        params, *shared = params_and_shared
        return apply(model, params, *shared, *rows, method=method)

    return division.divide_rows(call, (params, *shared), *rows)


def _posterior(model: VAE, batch: Batch) -> Posterior:
    return model.posterior(batch.to_intensities())


def _means(model: VAE, latents: jax.Array, batch: Batch) -> jax.Array:
    return model.likelihood.mean(model.decode(latents, batch))


def _draw_pixels(
    model: VAE, root_key: jax.Array, latents: jax.Array, batch: Batch, indices: jax.Array
) -> jax.Array:
    """Draws the pixels of a batch; the index of an image decides its pixels."""
    keys = jax.vmap(lambda index: stream_key(root_key, Stream.PIXELS, index))(indices)
    return jax.vmap(model.likelihood.sample)(keys, model.decode(latents, batch))


def _to_base(model: VAE, latents: jax.Array, batch: Batch) -> jax.Array:
    return cast(FlowPrior, model.prior(batch)).to_base(latents)


def _from_base(model: VAE, base: jax.Array, batch: Batch) -> jax.Array:
    return cast(FlowPrior, model.prior(batch)).from_base(base)


@functools.partial(jax.jit, static_argnames=("model", "num_images", "stream"))
def _draw_latents(
    model: VAE, params: Params, root_key: jax.Array, data: Batch, num_images: int, stream: Stream
) -> jax.Array:
    key = stream_key(root_key, stream)
    return apply(model, params, method=lambda model: model.prior(data).sample(key, num_images))


def encode_batch(model: VAE, params: Params, batch: Batch) -> Posterior:
    """Encodes a batch at once, on the device: pixels `<uint8>`, or intensities `<float32>`."""
    return _call(model, params, _posterior, batch)


def _batch_size(rows: Any) -> int:
    return _SMALL_BATCH_SIZE if len(rows) <= _SMALL_BATCH_SIZE else _BATCH_SIZE


def encode(model: VAE, params: Params, data: Batch) -> Posterior:
    """Encodes images, `<uint8>` or `<float32>` intensities: the posterior of each, in arrays."""
    return map_batches(functools.partial(encode_batch, model, params), _batch_size(data), data)


def iterate_posteriors(model: VAE, params: Params, data: Batch) -> Iterator[Posterior]:
    """Encodes images as `encode` does, some at a time."""
    return iterate_batches(functools.partial(encode_batch, model, params), _batch_size(data), data)


def decode(model: VAE, params: Params, latents: np.ndarray, data: Batch = NOTHING) -> np.ndarray:
    """Decodes latent vectors `<float>[n, latent]`: `<float>[n, height, width, channels]`."""
    return np.concatenate([*iterate_images(model, params, latents, data)])


def reconstruct(model: VAE, params: Params, data: Batch) -> np.ndarray:
    """Decodes the posterior mean of each image: `<float>[n, height, width, channels]`."""
    return decode(model, params, encode(model, params, data).mean, data)


def to_base(model: VAE, params: Params, latents: np.ndarray, data: Batch = NOTHING) -> np.ndarray:
    """Maps latents `<float>[n, latent]` to the prior's base space: itself unless it is a flow."""
    return _map_latents(_to_base, model, params, latents, data)


def from_base(model: VAE, params: Params, base: np.ndarray, data: Batch = NOTHING) -> np.ndarray:
    """Maps vectors of the prior's base space `<float>[n, latent]` to latents."""
    return _map_latents(_from_base, model, params, base, data)


def _map_latents(
    method: Callable[..., Any], model: VAE, params: Params, latents: np.ndarray, data: Batch
) -> np.ndarray:
    if not isinstance(model.prior, FlowPrior):
        return latents
    function = functools.partial(_call, model, params, method)
    return map_batches(function, _batch_size(latents), latents, data.without_images())


def draw_latents(
    model: VAE,
    params: Params,
    root_key: jax.Array,
    num_images: int,
    stream: Stream = Stream.PRIOR_SAMPLES,
    data: Batch = NOTHING,
) -> np.ndarray:
    """Draws latent vectors from the prior of the data: `<float>[num_images, latent]`.

    Fewer are the first of more: a few programs, of 100 times a power of two, serve all numbers.
    """
    num_drawn = _SMALL_BATCH_SIZE << ((num_images - 1) // _SMALL_BATCH_SIZE).bit_length()
    known = devices.to_device(pad_rows(data.without_images(), num_drawn))
    latents = _draw_latents(model, params, root_key, known, num_drawn, stream)
    return devices.to_host(latents)[:num_images]


def spread_labels(num_images: int, num_classes: int, label: int | None = None) -> np.ndarray | None:
    """Returns labels of images to draw, `<int32>[num_images]`, spread over all classes in order.

    All are `label` if it is given; None if the model has no classes.
    """
    if not num_classes:
        return None
    if label is not None:
        return np.full(num_images, label, np.int32)
    return (np.arange(num_images) * num_classes // num_images).astype(np.int32)


def sample(
    model: VAE,
    params: Params,
    root_key: jax.Array,
    num_images: int,
    stream: Stream = Stream.PRIOR_SAMPLES,
    data: Batch = NOTHING,
    pixels: bool = False,
) -> np.ndarray:
    """Decodes latent vectors drawn from the prior: `<float>[num_images, height, width, channels]`.

    With `pixels` these are drawn too, in place of their means; beyond [0, 1] if the likelihood is.
    """
    latents = draw_latents(model, params, root_key, num_images, stream, data)
    pixel_key = root_key if pixels else None
    return np.concatenate([*iterate_images(model, params, latents, data, pixel_key)])


def iterate_images(
    model: VAE,
    params: Params,
    latents: np.ndarray,
    data: Batch = NOTHING,
    pixel_key: jax.Array | None = None,
) -> Iterator[np.ndarray]:
    """Decodes latents as `decode` does, some at a time; a key draws pixels in place of means."""
    function, indices = functools.partial(_call, model, params, _means), ()
    if pixel_key is not None:
        function = functools.partial(_call, model, params, _draw_pixels, shared=(pixel_key,))
        indices = (np.arange(len(latents), dtype=np.int32),)
    rows = (latents, data.without_images(), *indices)
    return iterate_batches(function, _batch_size(latents), *rows)


def interpolate(
    model: VAE, params: Params, first: Batch, last: Batch, num_steps: int
) -> np.ndarray:
    """Decodes `num_steps` points from each first image to the last one, ends included.

    The line between the posterior means is straight in the base space of the prior; labels change
    in the middle.

    Returns:
      `<float>[n, num_steps, height, width, channels]`.
    """
    begin, end = (
        to_base(model, params, encode(model, params, data).mean, data)[:, None]
        for data in (first, last)
    )
    weights = np.linspace(0.0, 1.0, num_steps, dtype=np.float32)[None, :, None]
    base = (begin * (1.0 - weights) + end * weights).reshape(-1, begin.shape[-1])
    is_late = np.tile(weights[0, :, 0] > 0.5, len(first))
    data = jax.tree.map(
        lambda a, b: np.where(is_late, b.repeat(num_steps), a.repeat(num_steps)),
        first.without_images(),
        last.without_images(),
    )
    images = decode(model, params, from_base(model, params, base, data), data)
    return images.reshape(len(first), num_steps, *images.shape[1:])


def pick_pairs(
    labels: np.ndarray | None, num_images: int, num_pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Picks at most `num_pairs` pairs of images to interpolate between.

    From the first image of each class to that of the next class, if labels have several classes;
    else from each second image to the next one.

    Returns:
      `(first, last)`: `<int>[pairs]` indices, no index twice in either.
    """
    first = 2 * np.arange(num_images // 2)
    last = first + 1
    if labels is not None and len(np.unique(labels)) > 1:
        _, first = np.unique(labels, return_index=True)
        last = np.roll(first, -1)
    return first[:num_pairs], last[:num_pairs]
