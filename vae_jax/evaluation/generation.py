"""Images out of a trained model: reconstructions, samples and interpolations.

Images are `[n, height, width, channels]`, those that come out means of intensities in [0, 1]. Of a
batch that is decoded, only the labels are read.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import numpy as np

from vae_jax.datasets import Images
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import FlowPrior
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime import devices
from vae_jax.runtime.batching import iterate_batches, pad_rows

# Images at once, which limits the memory of feature maps. Two sizes, so few programs are compiled.
_BATCH_SIZE = 500
_SMALL_BATCH_SIZE = 100
NOTHING = Batch()  # for images without labels
_NUM_CANDIDATES = 200  # the images among which distant ones are searched


@functools.partial(jax.jit, static_argnames=("model", "method"))
def _call(model: VAE, params: Params, method: Callable[..., Any], *arguments: Any) -> Any:
    return apply(model, params, *arguments, method=method)


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


def map_rows(function: Callable[..., Any], *rows: Any) -> Any:
    """Applies a compiled function to any number of rows, in batches of two sizes."""
    pieces = _iterate_rows(function, *rows)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *pieces)


def _iterate_rows(function: Callable[..., Any], *rows: Any) -> Iterator[Any]:
    batch_size = _SMALL_BATCH_SIZE if len(rows[0]) <= _SMALL_BATCH_SIZE else _BATCH_SIZE
    return iterate_batches(function, batch_size, *rows)


def encode(model: VAE, params: Params, data: Batch) -> Posterior:
    """Encodes images, `<uint8>` or `<float32>` intensities: the posterior of each, in arrays."""
    return map_rows(functools.partial(encode_batch, model, params), data)


def iterate_posteriors(model: VAE, params: Params, data: Batch) -> Iterator[Posterior]:
    """Encodes images as `encode` does, some at a time."""
    return _iterate_rows(functools.partial(encode_batch, model, params), data)


def decode(model: VAE, params: Params, latents: np.ndarray, data: Batch = NOTHING) -> np.ndarray:
    """Decodes latent vectors `<float>[n, latent]`: `<float>[n, height, width, channels]`."""
    return np.concatenate([*iterate_images(model, params, latents, data)])


def reconstruct(model: VAE, params: Params, data: Batch) -> np.ndarray:
    """Decodes the posterior mean of each image: `<float>[n, height, width, channels]`."""
    return decode(model, params, encode(model, params, data).mean, data)


def reconstruct_in_every_class(model: VAE, params: Params, data: Batch) -> list[np.ndarray]:
    """Decodes the posterior means in each class of a conditional model; [] of any other model."""
    if not model.num_classes:
        return []
    latents = encode(model, params, data).mean
    labels = (np.full(len(data), label, np.int32) for label in range(model.num_classes))
    return [decode(model, params, latents, Batch(labels=each)) for each in labels]


def to_base(model: VAE, params: Params, latents: np.ndarray, data: Batch = NOTHING) -> np.ndarray:
    """Maps latents `<float>[n, latent]` to the prior's base space: itself unless it is a flow."""
    if not isinstance(model.prior, FlowPrior):
        return latents
    function = functools.partial(_call, model, params, _to_base)
    return map_rows(function, latents, data.without_images())


def from_base(model: VAE, params: Params, base: np.ndarray, data: Batch = NOTHING) -> np.ndarray:
    """Maps vectors of the prior's base space `<float>[n, latent]` to latents."""
    if not isinstance(model.prior, FlowPrior):
        return base
    function = functools.partial(_call, model, params, _from_base)
    return map_rows(function, base, data.without_images())


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

    Other streams give other samples. With `pixels` these are drawn too, in place of their means;
    beyond [0, 1] if the likelihood is.
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
        function = functools.partial(_call, model, params, _draw_pixels, pixel_key)
        indices = (np.arange(len(latents), dtype=np.int32),)
    return _iterate_rows(function, latents, data.without_images(), *indices)


def manifold(model: VAE, params: Params, num_steps: int) -> np.ndarray:
    """Decodes a grid over a latent space of two dimensions, in the base space of its prior.

    The grid's lines are quantiles of the standard normal, so each image has the same prior
    probability (Kingma and Welling 2014, appendix A). A conditional model draws its first class.

    Returns:
      `<float>[num_steps, num_steps, height, width, channels]`; the first latent variable grows to
      the right, the second upwards.
    """
    quantiles = (np.arange(num_steps) + 0.5) / num_steps
    values = devices.to_host(jax.jit(jax.scipy.stats.norm.ppf)(devices.to_device(quantiles)))
    across, up = np.meshgrid(values, values[::-1])
    latents = np.stack([across, up], -1).reshape(-1, 2).astype(np.float32)
    data = Batch(labels=spread_labels(len(latents), model.num_classes, 0))
    images = decode(model, params, from_base(model, params, latents, data), data)
    return images.reshape(num_steps, num_steps, *images.shape[1:])


def interpolate(
    model: VAE, params: Params, first: Batch, last: Batch, num_steps: int
) -> np.ndarray:
    """Decodes `num_steps` points from each first image to the last one, ends included.

    The line between the posterior means is straight in the base space of the prior; labels change
    in the middle.

    Returns:
      `<float>[n, num_steps, height, width, channels]`.
    """
    begin, end = (encode(model, params, data).mean for data in (first, last))
    return decode_between(model, params, begin, end, num_steps, first, last)


def decode_between(
    model: VAE,
    params: Params,
    first: np.ndarray,
    last: np.ndarray,
    num_steps: int,
    first_data: Batch = NOTHING,
    last_data: Batch = NOTHING,
) -> np.ndarray:
    """Decodes lines between latent vectors `<float>[n, latent]`, as `interpolate` does."""
    begin = to_base(model, params, first, first_data)[:, None]
    end = to_base(model, params, last, last_data)[:, None]
    weights = np.linspace(0.0, 1.0, num_steps, dtype=np.float32)[None, :, None]
    base = (begin * (1.0 - weights) + end * weights).reshape(-1, first.shape[-1])
    is_late = np.tile(weights[0, :, 0] > 0.5, len(first))
    data = jax.tree.map(
        lambda a, b: np.where(is_late, b.repeat(num_steps), a.repeat(num_steps)),
        first_data.without_images(),
        last_data.without_images(),
    )
    images = decode(model, params, from_base(model, params, base, data), data)
    return images.reshape(len(first), num_steps, *images.shape[1:])


def pick_pairs(
    images: Images, labels: np.ndarray | None, num_pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Picks at most `num_pairs` pairs of images to interpolate between.

    For each class an image of it and one of the next class, if labels have several classes; else
    images far from each other.

    Returns:
      `(first, last)`: `<int>[pairs]` indices, no index twice in either.
    """
    if labels is None or len(np.unique(labels)) == 1:
        return _distant_pairs(images[:_NUM_CANDIDATES], num_pairs)
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    first = [of_class[0] for of_class in places]
    # The second image of the next class if it has two, so that rows share no image.
    last = [of_class[min(1, len(of_class) - 1)] for of_class in places[1:] + places[:1]]
    return np.array(first[:num_pairs]), np.array(last[:num_pairs])


def _distant_pairs(images: np.ndarray, num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs each of the first images with the farthest that has no partner yet."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    left, pairs = [*range(len(images))], []
    while len(left) > 1 and len(pairs) < num_pairs:
        first = left.pop(0)
        distances = ((flat[left] - flat[first]) ** 2).sum(1)
        pairs.append((first, left.pop(int(distances.argmax()))))
    first, last = np.array(pairs, int).reshape(-1, 2).T
    return first, last
