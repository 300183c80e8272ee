"""Importance-weighted likelihoods of whole splits, in pieces that can be resumed."""

import dataclasses
import io
import os
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from vae_jax.model import importance
from vae_jax.model.vae import VAE
from vae_jax.training import run_directory, steps

PARTIAL_NAME = "likelihood.partial.npz"
# On CPU more make a wide dense head faster, and convolutions slower: their maps leave the caches.
_IMAGES_AT_ONCE = {"cpu": 200}
_IMAGES_AT_ONCE_ELSEWHERE = 5000
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

    def summarize(self) -> dict[str, float]:
        """Means over the images, in nats per image, and the standard error of the first."""
        num_images = len(self.log_likelihood)
        deviation = self.log_likelihood.std(ddof=1) if num_images > 1 else 0.0
        nll, negative_elbo = -self.log_likelihood.mean(), -self.elbo.mean()
        return {
            "negative_log_likelihood": float(nll),
            "standard_error": float(deviation / np.sqrt(num_images)),
            "negative_elbo": float(negative_elbo),
            "gap": float(negative_elbo - nll),
            "effective_sample_size": float(self.effective_sample_size.mean()),
            "num_images": num_images,
        }


_FIELDS = tuple(field.name for field in dataclasses.fields(Likelihoods))


def _estimate_batch(
    model: VAE,
    params: Any,
    root_key: jax.Array,
    images: np.ndarray,
    first_index: int,
    batch_size: int,
    num_samples: int,
    bar: tqdm,
    stopped: threading.Event,
) -> list[np.ndarray]:
    """The fields of the estimates for some images, the first with that index in the split.

    They are padded to the batch size, so that no second program is compiled for the last ones.
    Once stopped, what is returned means nothing.
    """
    padding = batch_size - len(images)
    padded = np.pad(images, ((0, padding), (0, 0), (0, 0)))
    indices = np.arange(first_index, first_index + batch_size)
    mean, log_var = steps.encode(model, params, padded)
    sums = importance.no_weights(batch_size)
    left = num_samples
    while left and not stopped.is_set():
        count = min(_SAMPLES_PER_CALL, left)
        sums = steps.add_importance_samples(
            model, params, root_key, padded, mean, log_var, indices, sums, count
        )
        left -= count
        jax.block_until_ready(sums)
        with bar.get_lock():
            bar.update(len(images) * count)
    functions = (
        importance.log_likelihood,
        importance.evidence_lower_bound,
        importance.effective_sample_size,
    )
    return [np.asarray(f(sums), np.float64)[: len(images)] for f in functions]


def _num_threads() -> int:
    """How many batches are estimated at a time.

    On CPU one for each core: many of a decoder's operations keep no more than one busy.
    """
    if jax.default_backend() != "cpu":
        return 1
    available = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(available(0)) if available else os.cpu_count() or 1


def _read_partial(path: Path, identity: str) -> np.ndarray:
    """The estimates an interrupted call left, `<float64>[3, n]`; none if they are of another."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as held:
            if str(held["identity"]) == identity:
                return held["estimates"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # none there, or damaged: they are computed again
    return np.zeros((len(_FIELDS), 0))


def _write_partial(path: Path, identity: str, estimates: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, identity=identity, estimates=estimates)
    run_directory.write_atomically(path, buffer.getvalue())


def estimate(
    model: VAE,
    params: Any,
    root_key: jax.Array,
    images: np.ndarray,
    num_samples: int,
    folder: Path,
    identity: str,
) -> Likelihoods:
    """Importance-weighted estimates of log p(x) for every image of a split.

    Memory does not grow with the number of samples or images. What is finished is kept in
    `folder` from time to time, and a later call with the same identity goes on there.

    Args:
      model: the autoencoder.
      params: its parameters.
      root_key: the run's root key: with an image's index it decides its samples.
      images: `<uint8>[n, 28, 28]`, black and white for a likelihood.
      num_samples: latent samples for each image, at least 1.
      folder: where what is finished is kept.
      identity: of these parameters, images and number of samples.
    """
    path = folder / PARTIAL_NAME
    estimates = _read_partial(path, identity)
    saved = time.monotonic()
    at_once = _IMAGES_AT_ONCE.get(jax.default_backend(), _IMAGES_AT_ONCE_ELSEWHERE)
    batch_size = min(at_once, len(images))
    bar = tqdm(
        total=len(images) * num_samples,
        initial=estimates.shape[1] * num_samples,
        desc=f"-log p(x), {num_samples} samples",
        unit=" samples",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    stopped = threading.Event()

    def estimate_from(first: int) -> list[np.ndarray]:
        batch = images[first : first + batch_size]
        return _estimate_batch(
            model, params, root_key, batch, first, batch_size, num_samples, bar, stopped
        )

    with bar, ThreadPoolExecutor(_num_threads()) as pool:
        try:
            for new in pool.map(estimate_from, range(estimates.shape[1], len(images), batch_size)):
                estimates = np.concatenate([estimates, new], axis=1)
                if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    _write_partial(path, identity, estimates)
                    saved = time.monotonic()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    path.unlink(missing_ok=True)
    return Likelihoods(*estimates)
