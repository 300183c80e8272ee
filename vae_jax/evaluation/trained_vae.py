"""A trained model in a user's own program: NumPy arrays in, NumPy arrays out."""

import dataclasses
import operator
import os
import warnings
from typing import Any

import ml_collections
import numpy as np

from vae_jax import datasets
from vae_jax.evaluation import generation, log_likelihood
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.model.likelihoods import MAX_PIXEL, count_gray
from vae_jax.model.rng_streams import make_root_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params
from vae_jax.runtime import compilation
from vae_jax.runtime.errors import UserError
from vae_jax.training.run_directory import RunDirectory

_MAX_SEED = 2**32 - 1
# The distance of an intensity from a whole level, in levels, up to which it counts as the level.
_LEVEL_TOLERANCE = 0.01


@compilation.fixed_options()
def load_run(path: str | os.PathLike[str], seed: int | None = None) -> "TrainedVAE":
    """Loads the best epoch of a run, from its checkpoints or its `weights.safetensors`.

    The seed chooses a replica, if the run has several. Nothing is written, and no option of JAX
    changes: `vae_jax.compilation.use_cache()` before it makes later starts quick.

    Raises:
      UserError: the path has no trained run, the run is damaged, or has no replica of that seed.
    """
    run = RunDirectory.open(path, "path")
    replicas = {replica.seed: replica for replica in restore_best(run).replicas}
    if seed is None and len(replicas) == 1:
        [seed] = replicas
    if seed not in replicas:
        seeds = ", ".join(map(str, replicas))
        raise UserError(f"{run.path}: holds seed {seeds}; give one of them as seed, not {seed}")
    return TrainedVAE(*replicas[seed].model_and_params, run.config, seed, run.spec.class_names)


def _check_count(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Returns a whole number within limits."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, must be a whole number") from None
    if number < least or (most is not None and number > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {number}, must be {limit}")
    return number


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedVAE:
    """A variational autoencoder with its parameters.

    Images that go in are `uint8` from 0 to 255, or floats or booleans from 0 to 1;
    `[n, height, width, channels]`, without the last axis if they have one channel, or one image
    without the first axis: results then have no first axis either. n may be 0. Images that come
    out are intensities, `<float32>[n, height, width, channels]`, from 0 to 1. Images of another
    shape or range raise ValueError, of another type TypeError. The same arguments give the same
    numbers, bit for bit, on the same machine.

    A conditional model (`config.condition.kind` is "label") needs the labels of the images too: the
    index in `class_names` or the name of each, or one for all. Another model takes none.

    Attributes:
      model: the Flax module, for one's own `jit` and `grad`: `vae_jax.apply(model, params,
        vae_jax.Batch(intensities), method="posterior")`.
      params: its parameters.
      config: the configuration it was trained with.
      seed: the seed it was trained with.
      class_names: of the data, by label; empty if they have none, or the run is an older one.
    """

    model: VAE
    params: Params
    config: ml_collections.ConfigDict
    seed: int
    class_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.model.image_shape))
        num_classes = self.model.num_classes
        classes = f", {num_classes} classes" if num_classes else ""
        return f"TrainedVAE({shape} images{classes}, {self.config.latent_size} latent variables)"

    @compilation.fixed_options()
    def encode(self, images: np.ndarray, labels: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Computes mean and log-variance of q(z | x), each `<float32>[n, latent]`."""
        batch, is_single = self._to_batch("images", images, labels)
        mean, log_var = generation.encode(self.model, self.params, batch).to_arrays().values()
        return (mean[0], log_var[0]) if is_single else (mean, log_var)

    @compilation.fixed_options()
    def decode(self, latents: np.ndarray, labels: Any = None) -> np.ndarray:
        """Decodes finite latent vectors, `<float>[n, latent]` or one, to images."""
        size, array = self.config.latent_size, np.asarray(latents, np.float32)
        if array.shape[-1:] != (size,) or array.ndim > 2:
            shapes = f"(n, {size}) or ({size},)"
            raise ValueError(f"latents have shape {array.shape}, must have {shapes}")
        if not np.isfinite(array).all():
            raise ValueError("latents hold numbers that are not finite")
        rows = np.atleast_2d(array)
        data = Batch(labels=self._to_labels(labels, len(rows)))
        images = generation.decode(self.model, self.params, rows, data)
        return images[0] if array.ndim == 1 else images

    @compilation.fixed_options()
    def reconstruct(self, images: np.ndarray, labels: Any = None) -> np.ndarray:
        """Decodes the posterior mean of each image."""
        batch, is_single = self._to_batch("images", images, labels)
        reconstructions = generation.reconstruct(self.model, self.params, batch)
        return reconstructions[0] if is_single else reconstructions

    @compilation.fixed_options()
    def sample(
        self, num_images: int, seed: int = 0, pixels: bool = False, label: Any = None
    ) -> np.ndarray:
        """Decodes latent vectors drawn from the prior; the seed of training draws those of the CLI.

        With `pixels` these are drawn too, in place of their means; beyond [0, 1] if the likelihood
        is. A label is the class of a conditional model to draw; None draws all, one after another.
        """
        num_images = _check_count("num_images", num_images, least=0)
        seed = _check_count("seed", seed, least=0, most=_MAX_SEED)
        labels = generation.spread_labels(num_images, self.model.num_classes)
        if label is not None:
            labels = self._to_labels(label, num_images)
        root_key, data = make_root_key(seed), Batch(labels=labels)
        return generation.sample(
            self.model, self.params, root_key, num_images, data=data, pixels=pixels
        )

    @compilation.fixed_options()
    def interpolate(
        self,
        first: np.ndarray,
        last: np.ndarray,
        num_steps: int = 10,
        first_labels: Any = None,
        last_labels: Any = None,
    ) -> np.ndarray:
        """Decodes `num_steps` points from each first image to the last one, ends included.

        The line between the posterior means is straight in the base space of the prior; labels
        change in the middle.

        Returns:
          `<float32>[n, num_steps, height, width, channels]`, without the first axis for two images.
        """
        num_steps = _check_count("num_steps", num_steps, least=2)
        begin, is_single = self._to_batch("first", first, first_labels)
        end, is_last_single = self._to_batch("last", last, last_labels)
        if len(begin) != len(end) or is_single != is_last_single:
            shapes = f"{np.shape(first)} and {np.shape(last)}"
            raise ValueError(f"first and last have shapes {shapes}, must be as many images")
        images = generation.interpolate(self.model, self.params, begin, end, num_steps)
        return images[0] if is_single else images

    def log_likelihood(
        self, images: np.ndarray, labels: Any = None, num_samples: int = 500, seed: int = 0
    ) -> np.ndarray:
        """Estimates log p(x) of each image by importance weights: `<float64>[n]`, in nats.

        Of a conditional model log p(x | y). Below log p(x) on average, and nearer with more latent
        samples: by half a nat or so with 100 (Burda et al. 2016, arXiv:1509.00519). An image's
        estimate does not depend on the others or on their order.

        Images are whole levels, so floats in steps of 1/255; black and white for a Bernoulli
        likelihood, which the cross-entropy of gray pixels is not.
        """
        return self.score(images, labels, num_samples, seed)["log_likelihood"]

    @compilation.fixed_options()
    def score(
        self, images: np.ndarray, labels: Any = None, num_samples: int = 500, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Estimates "negative_elbo", "log_likelihood" and "effective_sample_size" of each image.

        Each is `<float64>[n]`, the first two in nats, the last, the number of samples that the
        estimate is worth, from 1 to `num_samples`. Warns if it is below 2.
        """
        num_samples = _check_count("num_samples", num_samples, least=1)
        root_key = make_root_key(_check_count("seed", seed, least=0, most=_MAX_SEED))
        batch, is_single = self._to_batch("images", images, labels)
        levels = self._to_levels(batch)
        estimates = log_likelihood.Likelihoods(*np.zeros((3, 0)))
        if len(levels):
            indices = log_likelihood.indices_by_pixels(levels.images)
            estimates = log_likelihood.estimate(
                self.model, self.params, root_key, levels, num_samples, indices=indices
            )
        if doubt := estimates.find_doubt(num_samples):
            warnings.warn(doubt, stacklevel=3)  # the caller of the decorated method
        scores = estimates.to_scores()
        return {name: each[0] for name, each in scores.items()} if is_single else scores

    def _to_batch(self, name: str, images: Any, labels: Any) -> tuple[Batch, bool]:
        """Returns images `[n, height, width, channels]`, and whether it was a single one."""
        array = np.asarray(images)
        height, width, channels = shape = self.model.image_shape
        wanted = "uint8 from 0 to 255, or floats from 0 to 1"
        if array.dtype.kind not in "fb" and array.dtype != np.uint8:
            raise TypeError(f"{name} are {array.dtype}, must be {wanted}")
        if channels == 1 and array.shape[-2:] == (height, width) and array.shape != shape:
            array = array[..., None]
        is_single = array.shape == shape
        if not is_single and array.shape[1:] != shape:
            last = f"{height}, {width}" + (f", {channels}" if channels > 1 else "")
            raise ValueError(
                f"{name} have shape {np.shape(images)}, must have (n, {last}), or ({last}) for one"
            )
        if array.dtype != np.uint8:
            array = array.astype(np.float32)
            if not ((array >= 0.0) & (array <= 1.0)).all():  # NaN is in neither
                limits = f"from {array.min():g} to {array.max():g}"
                raise ValueError(f"{name} are floats {limits}, must be {wanted}")
        array = array[None] if is_single else array
        if array.dtype == np.uint8 and array.any():  # black is black in any range
            datasets.check_levels(array.max().item(), 255, name, "pass floats from 0 to 1")
        return Batch(array, self._to_labels(labels, len(array))), is_single

    def _to_labels(self, labels: Any, num_images: int) -> np.ndarray | None:
        """Returns the labels of images as `<int32>[num_images]`; None if the model takes none."""
        if not self.model.num_classes:
            if labels is not None:
                raise ValueError("the model is not conditional, it takes no labels")
            return None
        if labels is None:
            raise ValueError(f"labels are missing: {self!r} needs the class of each image")
        array = np.asarray(labels)
        if array.dtype.kind == "U":
            if unknown := {*map(str, array.reshape(-1))} - {*self.class_names}:
                classes = ", ".join(self.class_names)
                raise ValueError(f"{min(unknown)!r} is not a class; the classes: {classes}")
            array = np.vectorize(self.class_names.index, otypes=[np.int32])(array)
        if array.dtype.kind not in "iu":
            raise TypeError(f"labels are {array.dtype}, must be whole numbers or names of classes")
        if array.shape not in ((), (num_images,)):
            counts = f"one, or one for each of {num_images}"
            raise ValueError(f"labels have shape {array.shape}, must be {counts}")
        last = self.model.num_classes - 1
        if array.size and not (array.min() >= 0 and array.max() <= last):
            raise ValueError(f"labels are {array.min()} to {array.max()}, must be from 0 to {last}")
        return np.broadcast_to(array, num_images).astype(np.int32)

    def _to_levels(self, batch: Batch) -> Batch:
        """Returns images of whole levels as `uint8`; black and white for a binary likelihood."""
        images = batch.images
        if images.dtype != np.uint8:
            levels = np.rint(images * MAX_PIXEL)
            if np.abs(images * MAX_PIXEL - levels).max(initial=0.0) > _LEVEL_TOLERANCE:
                raise ValueError("images hold intensities between two levels, must be in 255ths")
            images = levels.astype(np.uint8)
        if self.model.likelihood.is_binary and (num_gray := count_gray(images)):
            raise ValueError(
                f"images have {num_gray} gray pixels, of which a Bernoulli has no likelihood: "
                "binarize them, e.g. images > 127"
            )
        return dataclasses.replace(batch, images=images)
