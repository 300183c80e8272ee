"""Importance-weighted likelihoods of splits."""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vae_jax.evaluation.generation import encode_batch
from vae_jax.evaluation.measures import LikelihoodMeasures
from vae_jax.model import losses
from vae_jax.model.likelihoods import to_bits_per_dimension
from vae_jax.model.posterior import LatentSample, Posterior
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime import devices, division
from vae_jax.runtime.batching import map_batches

_SAMPLES_PER_CALL = 50  # of each image; between two calls the progress bar moves
_SAMPLES_PER_PRIOR_SAMPLE = 10  # the others are from the posterior


@dataclasses.dataclass(frozen=True, eq=False)
class Likelihoods:
    """Estimates for each image of a split, each `<float64>[n]`."""

    negative_elbo: np.ndarray  # in nats, from the same samples
    log_likelihood: np.ndarray  # log p(x), in nats
    effective_sample_size: np.ndarray

    def summarize(
        self, num_samples: int, binarization_seed: int | None, num_dimensions: int | None
    ) -> LikelihoodMeasures:
        """Averages over the images; `num_dimensions` of pixels give bits per dimension too."""
        num_images = len(self.log_likelihood)
        deviation = self.log_likelihood.std(ddof=1) if num_images > 1 else 0.0
        nll, negative_elbo = -self.log_likelihood.mean(), self.negative_elbo.mean()
        return LikelihoodMeasures(
            negative_log_likelihood=float(nll),
            standard_error=float(deviation / np.sqrt(num_images)),
            negative_elbo=float(negative_elbo),
            gap=float(negative_elbo - nll),
            effective_sample_size=float(self.effective_sample_size.mean()),
            num_images=num_images,
            num_importance_samples=num_samples,
            binarization_seed=binarization_seed,
            bits_per_dimension=num_dimensions and to_bits_per_dimension(float(nll), num_dimensions),
        )

    def find_doubt(self, num_samples: int) -> str | None:
        """Reports estimates that rest on a single sample, unless they are of few samples."""
        count = np.count_nonzero(self.effective_sample_size < 2.0)
        if num_samples < 10 or not count:
            return None
        return (
            f"{count} of {len(self.log_likelihood)} images have an effective sample size below 2: "
            f"their log p(x) is a lower bound that more than {num_samples} samples would raise"
        )


@functools.partial(jax.jit, static_argnames=("model", "num_samples"))
def weigh_samples(
    model: VAE,
    params: Params,
    root_key: jax.Array,
    batch: Batch,
    posterior: Posterior,
    indices: jax.Array,
    first: jax.Array,
    num_samples: int,
    num_posterior: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Draws `num_samples` latents for each image, numbered from `first` on.

    Those from the number `num_posterior` on are from the prior. A sample's noise depends only on
    its image's index, `<uint32>[batch]`, and its own number. Returns the logarithms of
    p(x | z) p(z) / q(z | x) and of p(x | z), each `<float>[batch, num_samples]`.
    """
    numbers = first + jnp.arange(num_samples)

    def weigh_images(
        shared: Any, batch: Batch, posterior: Posterior, indices: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        params, root_key, numbers, num_posterior = shared
        batch = batch.to_intensities()

        def keys_of(stream: Stream, number: jax.Array) -> jax.Array:
            keys = jax.vmap(functools.partial(stream_key, root_key, stream))(indices)
            return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)

        def draw_from_prior(number: jax.Array) -> LatentSample:
            def draw(key: jax.Array, image: Batch) -> jax.Array:
                one = image[None]
                return apply(model, params, method=lambda model: model.prior(one).sample(key, 1)[0])

            keys = keys_of(Stream.IMPORTANCE_PRIOR, number)
            latents = jax.vmap(draw)(keys, batch.without_images())
            return LatentSample(latents, posterior.log_density(latents))

        def weigh(number: jax.Array) -> tuple[jax.Array, jax.Array]:
            sample = jax.lax.cond(
                number < num_posterior,
                lambda: posterior.sample(keys_of(Stream.IMPORTANCE, number)),
                lambda: draw_from_prior(number - num_posterior),
            )
            return apply(model, params, batch, sample[None], method="log_weights_of")

        # One sample of every image at a time: memory does not grow with their number.
        log_ratios, log_likelihoods = jax.lax.map(weigh, numbers)
        return log_ratios[:, 0].T, log_likelihoods[:, 0].T

    shared = params, root_key, numbers, num_posterior
    return division.divide_rows(weigh_images, shared, batch, posterior, indices)


@jax.jit
def _estimate(log_ratios: jax.Array, log_likelihoods: jax.Array) -> list[jax.Array]:
    """Computes the arrays of `Likelihoods` from all samples, `<float>[num_samples, batch]`."""
    num_prior = len(log_ratios) // _SAMPLES_PER_PRIOR_SAMPLE
    log_weights = losses.balance_heuristic(log_ratios, log_likelihoods, num_prior / len(log_ratios))
    return [
        -log_ratios[: len(log_ratios) - num_prior].mean(0),
        losses.importance_weighted_bound(log_weights),
        losses.effective_sample_size(log_weights),
    ]


def indices_by_pixels(images: np.ndarray) -> np.ndarray:
    """Computes indices that depend on an image alone, its CRC-32: `<uint32>[n]`."""
    blocks = (images[start : start + 1_000] for start in range(0, len(images), 1_000))
    return np.array([zlib.crc32(image.tobytes()) for each in blocks for image in each], np.uint32)


def _images_at_once() -> int:
    # On CPU more make a wide dense head faster, and convolutions slower: maps leave the caches.
    return 200 if jax.default_backend() == "cpu" else 5000


def estimate(
    model: VAE,
    params: Params,
    root_key: jax.Array,
    data: Batch,
    num_samples: int,
    indices: np.ndarray | None = None,
) -> Likelihoods:
    """Estimates log p(x) of images by importance weights, a tenth of the samples from the prior.

    Images are `<uint8>[n, height, width, channels]`, black and white for a Bernoulli.
    The key and an image's index, `<uint32>[n]` (its row if None), decide its samples.
    """
    indices = np.arange(len(data), dtype=np.uint32) if indices is None else indices
    batch_size = max(1, min(_images_at_once(), len(data)))
    num_posterior = np.int32(num_samples - num_samples // _SAMPLES_PER_PRIOR_SAMPLE)
    num_batches, title = -(-len(data) // batch_size), f"-log p(x), {num_samples} samples"
    bar = tqdm(desc=title, total=num_batches * num_samples, unit_scale=batch_size, disable=None)

    def estimate_batch(batch: Batch, indices: jax.Array) -> list[jax.Array]:
        posterior, pieces = encode_batch(model, params, batch), []
        for start in range(0, num_samples, _SAMPLES_PER_CALL):
            count = min(_SAMPLES_PER_CALL, num_samples - start)
            first, last = devices.to_device((np.int32(start), num_posterior))
            weights = weigh_samples(
                model, params, root_key, batch, posterior, indices, first, count, last
            )
            pieces.append(devices.to_host(weights))
            bar.update(count)
        samples = [np.concatenate(each, axis=1).T for each in zip(*pieces, strict=True)]
        return _estimate(*devices.to_device(samples))

    with bar:
        estimates = map_batches(estimate_batch, batch_size, data, indices)
    return Likelihoods(*(np.asarray(each, np.float64) for each in estimates))


def classify(
    model: VAE, params: Params, root_key: jax.Array, data: Batch, num_samples: int
) -> np.ndarray:
    """Classifies images by Bayes' rule: `<int>[n]`, the class with the largest log p(x | y).

    All classes are equally probable, and their log p(x | y) is estimated with the same noise.
    """
    values = []
    for label in range(model.num_classes):
        guess = Batch(data.images, np.full(len(data), label, np.int32))
        values.append(estimate(model, params, root_key, guess, num_samples).log_likelihood)
    return np.stack(values).argmax(0)
