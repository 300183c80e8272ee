"""The best epoch of a run, restored from its checkpoints or from its parameters alone."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    epoch: int
    rows: Rows
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


def _from_checkpoints(run: RunDirectory, settings: EvaluationSettings) -> tuple[Any, Rows, list]:
    """Restores epoch and step by name, the rows, and each replica's parameters."""
    checkpoints = Checkpoints(run.path)
    progress = checkpoints.latest_progress()
    if progress is None or progress.best is None:
        raise UserError(f"--workdir={run.path}: holds no finished epoch yet; train first")
    step = int(progress.best["step"])
    params = devices.to_device(checkpoints.restore_params(step, abstract_params(settings)))
    count = settings.num_replicas
    if count == 1:
        return progress.best, progress.rows, [params]
    replicas = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(count)]
    return progress.best, progress.rows, replicas


def _from_weights(run: RunDirectory, settings: EvaluationSettings) -> tuple[Any, Rows, list]:
    """Restores epoch and step by name, the rows, and each replica's parameters."""
    like = abstract_params(dataclasses.replace(settings, num_replicas=1))
    paths = [folder / WEIGHTS_NAME for folder in run.replica_folders]
    params, metadata = zip(*(read_weights(path, like) for path in paths), strict=True)
    if not {"epoch", "step"} <= metadata[0].keys():
        raise UserError(f"{paths[0]}: its metadata lack epoch or step; export it again")
    rows = [metrics.read_rows(folder / "metrics.csv") for folder in run.replica_folders]
    return metadata[0], [*zip(*rows, strict=True)], [*map(devices.to_device, params)]


def restore_best(run: RunDirectory) -> TrainedRun:
    """Restores the parameters of the best epoch of a run.

    They come from its checkpoints, or from `weights.safetensors` in a run without checkpoints.

    Raises:
      UserError: the run has no parameters, or they are damaged.
    """
    config, folders = run.config, run.replica_folders
    settings = evaluation_settings(config, run.spec)
    has_weights = not (run.path / "checkpoints").exists() and (folders[0] / WEIGHTS_NAME).exists()
    best, rows, params = (_from_weights if has_weights else _from_checkpoints)(run, settings)
    epoch, step = int(best["epoch"]), int(best["step"])
    is_light_on_dark = datasets.SOURCES[config.data.name].is_light_on_dark
    replicas = [
        Replica(
            folder,
            config.seed + index,
            epoch,
            step,
            dataclasses.replace(settings.in_epoch(epoch), num_replicas=1),
            params[index],
            dark_on_light=is_light_on_dark and run.spec.image_shape[-1] == 1,
        )
        for index, folder in enumerate(folders)
    ]
    return TrainedRun(run, run.path, epoch, rows, replicas)


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
    recorded = {folder: check_names(folder, names) for folder in folders}
    for folder, known in recorded.items():
        folder.mkdir(parents=True, exist_ok=True)
        record_names(folder, names, known)
    return dataclasses.replace(run, workdir=target, replicas=replicas)


def check_apart(images: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Raises UserError if the folder of images contains the output folder, or lies in it."""
    first = local_path("--input", images).resolve()
    second = local_path("--output", target).resolve()
    if first.is_dir() and (first.is_relative_to(second) or second.is_relative_to(first)):
        raise UserError(
            f"--output={target} overlaps --input={images}; use folders that do not contain each "
            "other"
        )


def load_data(run: TrainedRun) -> Dataset:
    """Loads the data that a run was made from.

    Raises:
      UserError: they cannot be read, or are not the same any more.
    """
    dataset = datasets.load(**run.config.data)
    run_directory.check_same_data(run.source, dataset.sha256)
    return dataset
