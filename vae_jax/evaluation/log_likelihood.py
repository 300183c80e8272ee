"""Importance-weighted likelihoods of whole splits, in pieces that can be resumed."""

import dataclasses
import functools
import io
import sys
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vae_jax.evaluation.generation import encode_batch
from vae_jax.evaluation.measures import LikelihoodMeasures
from vae_jax.model import importance
from vae_jax.model.importance import WeightSums
from vae_jax.model.likelihoods import check_pixels, to_bits_per_dimension
from vae_jax.model.posterior import Posterior
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime import devices
from vae_jax.runtime.batching import pad_rows
from vae_jax.runtime.files import write_atomically

PARTIAL_NAME = "likelihood.partial.npz"
_SAMPLES_PER_CALL = 50  # of each of these images; between two calls the progress bar moves
_SECONDS_BETWEEN_SAVES = 30.0


@dataclasses.dataclass(frozen=True, eq=False)
class Likelihoods:
    """Estimates for each image of a split.

    Attributes:
      log_likelihood: `<float64>[n]`, of log p(x), in nats.
      elbo: `<float64>[n]`, from the same samples.
      effective_sample_size: `<float64>[n]`.
    """

    log_likelihood: np.ndarray
    elbo: np.ndarray
    effective_sample_size: np.ndarray

    def summarize(
        self, num_samples: int, binarization_seed: int | None, num_dimensions: int | None
    ) -> LikelihoodMeasures:
        """Averages over the images, in nats per image, with the first one's standard error.

        Args:
          num_samples: of each image.
          binarization_seed: of the images' pixels; None where none are drawn.
          num_dimensions: channels of all pixels, for bits per dimension; None for none.
        """
        num_images = len(self.log_likelihood)
        deviation = self.log_likelihood.std(ddof=1) if num_images > 1 else 0.0
        nll, negative_elbo = -self.log_likelihood.mean(), -self.elbo.mean()
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


_FIELDS = tuple(field.name for field in dataclasses.fields(Likelihoods))


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
) -> WeightSums:
    """Draws more latent samples for each image and adds their importance weights.

    A sample's noise comes from its image's index in the split and its own number, so that it
    does not matter how many are drawn at once.

    Args:
      model: the autoencoder.
      params: its parameters.
      root_key: the run's root key.
      batch: pixels, `<uint8>[batch, height, width, channels]`.
      posterior: q(z | x) of the batch.
      indices: `<int>[batch]`, each image's place in its split.
      sums: of the samples drawn before.
      num_samples: how many to draw for each image.

    Returns:
      The sums with these samples among them.
    """
    batch = batch.to_intensities()

    def log_weights_of(number: jax.Array) -> jax.Array:
        def key_of(index: jax.Array) -> jax.Array:
            return jax.random.fold_in(stream_key(root_key, Stream.IMPORTANCE, index), number)

        keys = jax.vmap(key_of)(indices)
        return apply(model, params, batch, keys, 1, posterior, method="log_weights")[0]

    # One sample of every image at a time: memory does not grow with their number.
    log_weights = jax.lax.map(log_weights_of, sums.count + jnp.arange(num_samples))
    return importance.add_weights(sums, log_weights)


def _images_at_once() -> int:
    """Returns how many images are estimated together."""
    # On CPU more make a wide dense head faster, and convolutions slower: maps leave the caches.
    return devices.by_platform(cpu=200, accelerator=5000)


def _estimate_batch(
    model: VAE,
    params: Params,
    root_key: jax.Array,
    data: Batch,
    first_index: int,
    batch_size: int,
    num_samples: int,
    bar: tqdm,
) -> list[np.ndarray]:
    """Estimates the fields of `Likelihoods` for images, the first with that index in the split.

    They are padded to the batch size, so that no second program is compiled for the last ones.
    """
    indices = np.arange(first_index, first_index + batch_size, dtype=np.int32)
    padded, indices = devices.to_device((pad_rows(data, batch_size), indices))
    posterior = encode_batch(model, params, padded)
    sums = jax.jit(importance.no_weights, static_argnums=0)(batch_size)
    left = num_samples
    while left:
        count = min(_SAMPLES_PER_CALL, left)
        sums = add_importance_samples(
            model, params, root_key, padded, posterior, indices, sums, count
        )
        left -= count
        jax.block_until_ready(sums)
        bar.update(len(data) * count)
    functions = (
        importance.log_likelihood,
        importance.evidence_lower_bound,
        importance.effective_sample_size,
    )
    return [
        np.asarray(devices.to_host(jax.jit(f)(sums)), np.float64)[: len(data)] for f in functions
    ]


def _read_partial(path: Path | None, identity: str) -> np.ndarray:
    """Reads what an interrupted call left, `<float64>[3, n]`; nothing if it is of another."""
    nothing = np.zeros((len(_FIELDS), 0))
    if path is None:
        return nothing
    try:
        with np.load(io.BytesIO(path.read_bytes())) as partial:
            if str(partial["identity"]) == identity:
                return partial["estimates"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # none there, or damaged: they are computed again
    return nothing


def _write_partial(path: Path, identity: str, estimates: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, identity=identity, estimates=estimates)
    write_atomically(path, buffer.getvalue())


def estimate(
    model: VAE,
    params: Params,
    root_key: jax.Array,
    data: Batch,
    num_samples: int,
    folder: Path | None = None,
    identity: str = "",
) -> Likelihoods:
    """Estimates log p(x) of every image of a split by importance weights.

    Memory does not grow with the number of samples or images. What is finished is kept
    in `folder`, if one is given, from time to time, and a later call with the same identity goes on
    there. The file, `PARTIAL_NAME`, is the caller's to remove, once the result is written.

    Args:
      model: the autoencoder.
      params: its parameters.
      root_key: the run's root key: with an image's index it decides its samples.
      data: pixels, `<uint8>[n, height, width, channels]`, black and white for a likelihood of such.
      num_samples: latent samples for each image, at least 1.
      folder: where what is finished is kept; nowhere if None.
      identity: of these parameters, images and number of samples.
    """
    check_pixels(data.images, model.image_shape)
    path = folder and folder / PARTIAL_NAME
    estimates = _read_partial(path, identity)
    saved = time.monotonic()
    batch_size = min(_images_at_once(), len(data))
    bar = tqdm(
        total=len(data) * num_samples,
        initial=estimates.shape[1] * num_samples,
        desc=f"-log p(x), {num_samples} samples",
        unit=" samples",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        # One batch after the other, on CPU too: `compilation.py` says what threads would do.
        for first in range(estimates.shape[1], len(data), batch_size):
            batch = data[first : first + batch_size]
            new = _estimate_batch(
                model, params, root_key, batch, first, batch_size, num_samples, bar
            )
            estimates = np.concatenate([estimates, new], axis=1)
            if path and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                _write_partial(path, identity, estimates)
                saved = time.monotonic()
    return Likelihoods(*estimates)
