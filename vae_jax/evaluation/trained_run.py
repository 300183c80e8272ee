"""The best epoch of a run: for modes, and as `TrainedVAE` for a user's own program."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from vae_jax import datasets
from vae_jax.datasets import Dataset
from vae_jax.evaluation import generation, log_likelihood
from vae_jax.model.likelihoods import MAX_PIXEL, count_gray
from vae_jax.model.rng_streams import make_root_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params
from vae_jax.runtime import compilation, devices
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path
from vae_jax.runtime.output_record import check_names, record_names
from vae_jax.training import metrics, run_directory
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import EvaluationSettings, evaluation_settings
from vae_jax.training.train_state import init_params
from vae_jax.training.weights import WEIGHTS_NAME, read_weights

# For each epoch each replica's row of metrics.
Rows = Sequence[Sequence[dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Replica:
    """The trained model of one seed."""

    folder: Path  # of its metrics, plots and summary
    seed: int
    epoch: int  # the run's best epoch
    step: int  # the training step it ended at
    settings: EvaluationSettings  # model and loss, of this replica alone
    params: Params
    dark_on_light: bool = False  # whether plots show high intensities dark, as writing is

    @property
    def model(self) -> VAE:
        """The autoencoder."""
        return self.settings.model

    @property
    def model_and_params(self) -> tuple[VAE, Params]:
        """The first two arguments of most functions of trained models."""
        return self.model, self.params

    @property
    def root_key(self) -> jax.Array:
        """The key that the seed makes."""
        return make_root_key(self.seed)

    @property
    def plots(self) -> Path:
        """The folder of its plots."""
        return self.folder / "plots"

    def shown(self, images: np.ndarray) -> np.ndarray:
        """Returns intensities as plots show them: digits dark on light, own images as they are."""
        return 1.0 - images if self.dark_on_light else images


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The best epoch of a run: the lowest validation loss, averaged over the replicas."""

    source: RunDirectory
    workdir: Path  # the folder to write to: the run directory, or another
    rows: Rows
    replicas: list[Replica]

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The run's configuration."""
        return self.source.config


def _from_checkpoints(run: RunDirectory, like: Params) -> tuple[Any, Rows, list[Params]]:
    """Restores epoch and step by name, the rows, and each replica's parameters."""
    checkpoints, count = Checkpoints(run.path), len(run.replica_folders)
    progress = checkpoints.latest_progress()
    if progress is None or progress.best is None:
        raise UserError(f"--workdir={run.path}: holds no finished epoch yet; train first")
    axes = (count,) if count > 1 else ()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype), like)
    params = devices.to_device(checkpoints.restore_params(int(progress.best["step"]), like))
    replicas = [params]
    if axes:
        replicas = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(count)]
    return progress.best, progress.rows, replicas


def _from_weights(run: RunDirectory, like: Params) -> tuple[Any, Rows, list[Params]]:
    """Restores epoch and step by name, the rows, and each replica's parameters."""
    paths = [folder / WEIGHTS_NAME for folder in run.replica_folders]
    params, metadata = zip(*(read_weights(path, like) for path in paths), strict=True)
    rows = [metrics.read_rows(folder / "metrics.csv") for folder in run.replica_folders]
    return metadata[0], [*zip(*rows, strict=True)], [*map(devices.to_device, params)]


def restore_best(run: RunDirectory) -> TrainedRun:
    """Restores the best epoch from checkpoints, or from `weights.safetensors` without these.

    Raises:
      UserError: the run has no parameters, or they are damaged.
    """
    config, folders = run.config, run.replica_folders
    settings = evaluation_settings(config, run.spec)
    has_weights = not (run.path / "checkpoints").exists() and (folders[0] / WEIGHTS_NAME).exists()
    like = jax.eval_shape(lambda: init_params(settings.model, make_root_key(0)))
    best, rows, params = (_from_weights if has_weights else _from_checkpoints)(run, like)
    epoch, step = int(best["epoch"]), int(best["step"])
    single = dataclasses.replace(settings.in_epoch(epoch), num_replicas=1)
    is_light_on_dark = datasets.SOURCES[config.data.name].is_light_on_dark
    dark_on_light = is_light_on_dark and run.spec.image_shape[-1] == 1
    replicas = [
        Replica(folder, config.seed + index, epoch, step, single, params[index], dark_on_light)
        for index, folder in enumerate(folders)
    ]
    return TrainedRun(run, run.path, rows, replicas)


def restore_to_write(
    source: RunDirectory, output: str | os.PathLike[str] | None = None, names: Sequence[str] = ()
) -> TrainedRun:
    """Restores the best epoch of a run whose files, from now on, go to the folder `output`.

    The folder is made if it is missing; None is the run directory. Elsewhere the names of the files
    and folders that are written must not be those of the user's own files, and are recorded.

    Raises:
      UserError: as `restore_best` does; or files are in the way.
    """
    run = restore_best(source)
    target = source.path if output is None else local_path("--output", output)
    if target.resolve() == source.path.resolve():
        return run
    replicas = [
        dataclasses.replace(replica, folder=target / os.path.relpath(replica.folder, source.path))
        for replica in run.replicas
    ]
    folders = {target, *(replica.folder for replica in replicas)}
    for folder in folders:
        check_names(folder, names)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        record_names(folder, names)
    return dataclasses.replace(run, workdir=target, replicas=replicas)


def load_data(run: TrainedRun) -> Dataset:
    """Loads the data that a run was made from.

    Raises:
      UserError: they cannot be read, or are not the same any more.
    """
    dataset = datasets.load(**run.config.data)
    run_directory.check_same_data(run.source, dataset.sha256)
    return dataset


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


def _check_at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}, must be at least {least}")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedVAE:
    """A variational autoencoder with its parameters.

    Images that go in are `uint8` from 0 to 255, or floats or booleans from 0 to 1;
    `[n, height, width, channels]`, without the last axis if they have one channel, or one image
    without the first axis: results then have no first axis either. Images that come out are
    intensities, `<float32>[n, height, width, channels]`. Images of another shape or range raise
    ValueError, of another type TypeError. The same arguments give the same numbers, bit for bit, on
    the same machine.

    A conditional model (`config.condition.kind` is "label") needs the labels of the images too:
    indices in `class_names`, one for each image or one for all. Another model takes none.
    """

    # The Flax module, for one's own `jit` and `grad`, by `vae_jax.apply`.
    model: VAE = dataclasses.field(repr=False)
    params: Params = dataclasses.field(repr=False)
    config: ml_collections.ConfigDict = dataclasses.field(repr=False)  # that it was trained with
    seed: int  # that it was trained with
    class_names: tuple[str, ...] = ()  # by label; empty if the data have none, or in older runs

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
        if array.shape[-1:] != (size,) or array.ndim > 2 or not np.isfinite(array).all():
            raise ValueError(f"latents have shape {array.shape}, must be finite, {size} each")
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
        _check_at_least(0, "num_images", num_images)
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
        """Decodes points on the line from each first image to the last one, ends included.

        Labels change in the middle.

        Returns:
          `<float32>[n, num_steps, height, width, channels]`, without the first axis for two images.
        """
        _check_at_least(2, "num_steps", num_steps)
        begin, is_single = self._to_batch("first", first, first_labels)
        end, is_last_single = self._to_batch("last", last, last_labels)
        if len(begin) != len(end) or is_single != is_last_single:
            raise ValueError("first and last must be the same number of images")
        images = generation.interpolate(self.model, self.params, begin, end, num_steps)
        return images[0] if is_single else images

    def log_likelihood(
        self, images: np.ndarray, labels: Any = None, num_samples: int = 500, seed: int = 0
    ) -> np.ndarray:
        """Estimates log p(x) of each image by importance weights: `<float64>[n]`, in nats.

        Of a conditional model log p(x | y). Below log p(x) on average, and nearer with more latent
        samples (Burda et al. 2016, arXiv:1509.00519). An image's estimate does not depend on the
        others. Floats are rounded to 256 levels; a Bernoulli takes black and white alone.
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
        _check_at_least(1, "num_samples", num_samples)
        batch, is_single = self._to_batch("images", images, labels)
        pixels = batch.images
        if pixels.dtype != np.uint8:
            pixels = np.rint(pixels * MAX_PIXEL).astype(np.uint8)
        if self.model.likelihood.is_binary and (num_gray := count_gray(pixels)):
            raise ValueError(
                f"images have {num_gray} gray pixels, of which a Bernoulli has no likelihood: "
                "binarize them, e.g. images > 127"
            )
        estimates = log_likelihood.estimate(
            *(self.model, self.params, make_root_key(seed)),
            dataclasses.replace(batch, images=pixels),
            num_samples,
            indices=log_likelihood.indices_by_pixels(pixels),
        )
        if doubt := estimates.find_doubt(num_samples):
            warnings.warn(doubt, stacklevel=3)  # the caller of the decorated method
        scores = vars(estimates)
        return {name: each[0] for name, each in scores.items()} if is_single else scores

    def _to_batch(self, name: str, images: Any, labels: Any) -> tuple[Batch, bool]:
        """Returns images `[n, height, width, channels]`, and whether it was a single one."""
        array, shape = np.asarray(images), self.model.image_shape
        if array.dtype.kind not in "fb" and array.dtype != np.uint8:
            raise TypeError(f"{name} are {array.dtype}, must be uint8, or floats from 0 to 1")
        if shape[2] == 1 and array.shape[-2:] == shape[:2] and array.shape != shape:
            array = array[..., None]
        is_single = array.shape == shape
        array = array[None] if is_single else array
        if array.shape[1:] != shape:
            raise ValueError(f"{name} have shape {np.shape(images)}, must have {shape} each")
        if array.dtype != np.uint8:
            array = array.astype(np.float32)
            if not ((array >= 0.0) & (array <= 1.0)).all():  # NaN is in neither
                raise ValueError(f"{name} are floats, and not all are from 0 to 1")
        return Batch(array, self._to_labels(labels, len(array))), is_single

    def _to_labels(self, labels: Any, num_images: int) -> np.ndarray | None:
        """Returns labels as `<int32>[num_images]`, or None, which a conditional model refuses."""
        if labels is None:
            return None
        if not self.model.num_classes:
            raise ValueError("the model is not conditional, it takes no labels")
        array = np.asarray(labels)
        if array.dtype.kind not in "iu":
            raise TypeError(f"labels are {array.dtype}, must be indices in `class_names`")
        last = self.model.num_classes - 1
        if not ((array >= 0) & (array <= last)).all():
            raise ValueError(f"labels are {array.min()} to {array.max()}, must be from 0 to {last}")
        return np.broadcast_to(array, num_images).astype(np.int32)
