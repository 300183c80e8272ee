"""The best epoch of a run, restored from its checkpoints or from its parameters alone."""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from vae_jax import datasets
from vae_jax.datasets import Dataset
from vae_jax.model.rng_streams import make_root_key
from vae_jax.model.vae import VAE, Params
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path
from vae_jax.runtime.output_record import check_names, record_names
from vae_jax.training import metrics, run_directory
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import EvaluationSettings, evaluation_settings
from vae_jax.training.train_state import init_params
from vae_jax.training.weights import WEIGHTS_NAME, read_weights


@dataclasses.dataclass(frozen=True)
class Replica:
    """One seed's model, ready to be looked at.

    Attributes:
      folder: where its metrics, plots and summary are.
      seed: its seed.
      epoch: the run's best epoch.
      step: the training step that epoch ended at.
      settings: model and loss, of this replica alone.
      params: the parameters to evaluate.
      dark_on_light: whether plots show high intensities dark, as writing is.
    """

    folder: Path
    seed: int
    epoch: int
    step: int
    settings: EvaluationSettings
    params: Params
    dark_on_light: bool = False

    @property
    def model(self) -> VAE:
        """The autoencoder."""
        return self.settings.model

    @property
    def root_key(self) -> jax.Array:
        """The key that the seed makes."""
        return make_root_key(self.seed)

    @property
    def plots(self) -> Path:
        """The folder plots go to."""
        return self.folder / "plots"

    def shown(self, images: np.ndarray) -> np.ndarray:
        """Returns intensities as plots show them: digits dark on light, own images as they are."""
        return 1.0 - images if self.dark_on_light else images


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The best epoch of a run.

    Attributes:
      source: the run directory it comes from.
      workdir: where files go: that directory, or another.
      epoch: the epoch with the lowest validation loss, averaged over the replicas.
      rows: for each epoch that a checkpoint holds, each replica's row of metrics.
      replicas: one for each seed.
    """

    source: RunDirectory
    workdir: Path
    epoch: int
    rows: Sequence[Sequence[dict[str, float]]]
    replicas: list[Replica]

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The run's configuration."""
        return self.source.config


def abstract_params(settings: EvaluationSettings) -> Params:
    """Returns the shapes and types of the parameters of all replicas."""
    params = jax.eval_shape(lambda: init_params(settings.model, make_root_key(0)))
    if settings.num_replicas == 1:
        return params
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((settings.num_replicas, *leaf.shape), leaf.dtype), params
    )


@dataclasses.dataclass(frozen=True)
class _Restored:
    """The best epoch: its number, its step, the rows so far, and each replica's parameters."""

    epoch: int
    step: int
    rows: Sequence[Sequence[dict[str, float]]]
    params: list[Params]


def _from_checkpoints(run: RunDirectory, settings: EvaluationSettings) -> _Restored:
    checkpoints = Checkpoints(run.path)
    progress = checkpoints.latest_progress()
    if progress is None or progress.best is None:
        raise UserError(f"--workdir={run.path}: holds no finished epoch yet; train first")
    step, epoch = (int(progress.best[name]) for name in ("step", "epoch"))
    params = devices.to_device(checkpoints.restore_params(step, abstract_params(settings)))
    count = settings.num_replicas
    each = [params] if count == 1 else [_replica(params, index) for index in range(count)]
    return _Restored(epoch, step, progress.rows, each)


def _replica(params: Params, index: int) -> Params:
    """Takes one replica's parameters out of those of several."""
    return jax.tree.map(lambda leaf: leaf[index], params)


def _from_weights(folders: Sequence[Path], settings: EvaluationSettings) -> _Restored:
    like = abstract_params(dataclasses.replace(settings, num_replicas=1))
    read = [read_weights(folder / WEIGHTS_NAME, like) for folder in folders]
    rows = [metrics.read_rows(folder / "metrics.csv") for folder in folders]
    path, metadata = folders[0] / WEIGHTS_NAME, read[0][1]
    try:
        epoch, step = int(metadata["epoch"]), int(metadata["step"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its metadata lack epoch or step; export it again") from error
    params = [devices.to_device(params) for params, _ in read]
    return _Restored(epoch, step, list(zip(*rows, strict=True)), params)


def restore_best(run: RunDirectory) -> TrainedRun:
    """Restores the parameters of the best epoch of a run.

    They come from its checkpoints; where there are none, from `weights.safetensors`, as in a
    folder that holds a trained model and nothing to train it further.

    Raises:
      UserError: the run has no parameters, or they are damaged.
    """
    config, folders = run.config, run.replica_folders
    settings = evaluation_settings(config, run.spec)
    has_weights = not (run.path / "checkpoints").exists() and (folders[0] / WEIGHTS_NAME).exists()
    restored = _from_weights(folders, settings) if has_weights else _from_checkpoints(run, settings)
    alone = dataclasses.replace(settings.in_epoch(restored.epoch), num_replicas=1)
    dark_on_light = datasets.SOURCES[config.data.name].is_light_on_dark
    replicas = [
        Replica(
            folder,
            config.seed + index,
            restored.epoch,
            restored.step,
            alone,
            params,
            dark_on_light=dark_on_light and run.spec.image_shape[-1] == 1,
        )
        for index, (folder, params) in enumerate(zip(folders, restored.params, strict=True))
    ]
    return TrainedRun(run, run.path, restored.epoch, restored.rows, replicas)


def restore_to_write(
    source: RunDirectory,
    output: str | os.PathLike[str] | None = None,
    names: Sequence[str] = (),
    input: str | os.PathLike[str] | None = None,
) -> TrainedRun:
    """Restores the best epoch of a run whose files, from now on, go to `output`.

    Args:
      source: the run directory, which nothing is written to if `output` is given.
      output: a folder, made if there is none; the run directory if None.
      names: of the files and folders that are written to each replica's folder. Outside the run
        directory they must not be someone else's, and are recorded.
      input: the folder or file of the images, if any: a folder must be apart from `output`.

    Raises:
      UserError: as `restore_best` does; or files cannot be written there.
    """
    target = source.path if output is None else local_path("--output", output)
    is_apart = target.resolve() != source.path.resolve()
    if is_apart and input is not None:
        _check_apart(local_path("--input", input), target)
    run = restore_best(source)
    if is_apart:
        replicas = [
            dataclasses.replace(
                replica, folder=target / os.path.relpath(replica.folder, source.path)
            )
            for replica in run.replicas
        ]
        run = dataclasses.replace(run, workdir=target, replicas=replicas)
    folders = dict.fromkeys((run.workdir, *(replica.folder for replica in run.replicas)))
    for folder in folders if is_apart else ():
        check_names(folder, names)
    for folder in folders:
        _check_writable(folder)
        if is_apart:
            record_names(folder, names)
    return run


def _check_apart(images: Path, target: Path) -> None:
    """Raises UserError if the folder of images is in the folder that is written to, or around it.

    What is written would be among the images the next time.
    """
    first, second = images.resolve(), target.resolve()
    if images.is_dir() and (first.is_relative_to(second) or second.is_relative_to(first)):
        raise UserError(
            f"--output={target}: overlaps --input={images}, so that what is written would be read "
            "as images the next time; give a folder that is not inside the other"
        )


def load_data(run: TrainedRun) -> Dataset:
    """Loads the data that a run was made from.

    Raises:
      UserError: they cannot be had, or are not the same any more.
    """
    dataset = datasets.load(**run.config.data)
    run_directory.check_same_data(run.source, dataset.sha256)
    return dataset


def _check_writable(folder: Path) -> None:
    """Makes a folder where there is none, and tries a file in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: files cannot be written there ({error.strerror}); give another folder with "
            "--output=FOLDER"
        ) from error
