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
from vae_jax.model import importance
from vae_jax.model.importance import WeightSums
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
def add_importance_samples(
    model: VAE,
    params: Params,
    root_key: jax.Array,
    batch: Batch,
    posterior: Posterior,
    indices: jax.Array,
    sums: WeightSums,
    num_samples: int,
    num_total: jax.Array,
) -> WeightSums:
    """Draws `num_samples` more latents for each image and adds their importance weights.

    The last tenth of an image's `num_total` samples is from the prior. A sample's noise depends
    only on its image's index, `<uint32>[batch]`, and its own number.
    """
    num_prior = num_total // _SAMPLES_PER_PRIOR_SAMPLE
    num_posterior = num_total - num_prior
    numbers = sums.count + jnp.arange(num_samples)

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
    weights = division.divide_rows(weigh_images, shared, batch, posterior, indices)
    log_ratios, log_likelihoods = (each.T for each in weights)
    log_weights = importance.balance_heuristic(log_ratios, log_likelihoods, num_prior / num_total)
    return importance.add_weights(sums, log_weights, log_ratios, numbers < num_posterior)


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
    num_total = devices.to_device(np.int32(num_samples))
    num_batches, title = -(-len(data) // batch_size), f"-log p(x), {num_samples} samples"
    bar = tqdm(desc=title, total=num_batches * num_samples, unit_scale=batch_size, disable=None)

    def estimate_batch(batch: Batch, indices: jax.Array) -> list[jax.Array]:
        posterior = encode_batch(model, params, batch)
        sums = jax.jit(importance.no_weights, static_argnums=0)(batch_size)
        for start in range(0, num_samples, _SAMPLES_PER_CALL):
            count = min(_SAMPLES_PER_CALL, num_samples - start)
            sums = add_importance_samples(
                model, params, root_key, batch, posterior, indices, sums, count, num_total
            )
            jax.block_until_ready(sums)
            bar.update(count)
        estimators = (
            importance.evidence_lower_bound,
            importance.log_likelihood,
            importance.effective_sample_size,
        )
        return [jax.jit(function)(sums) for function in estimators]

    with bar:
        estimates = map_batches(estimate_batch, batch_size, data, indices)
    elbo, *others = (np.asarray(each, np.float64) for each in estimates)
    return Likelihoods(-elbo, *others)


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
