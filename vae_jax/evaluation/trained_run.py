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


def _from_checkpoints(
    run: RunDirectory, settings: EvaluationSettings
) -> tuple[int, int, Rows, list[Params]]:
    """Restores epoch, step, rows and each replica's parameters."""
    # Not at import: a model that has parameters alone needs no checkpoint library.
    from vae_jax.training.checkpoints import Checkpoints

    with Checkpoints(run.path, read_only=True) as checkpoints:
        progress = checkpoints.latest_progress()
        if progress is None or progress.best is None:
            raise UserError(f"--workdir={run.path}: holds no finished epoch yet; train first")
        step, epoch = (int(progress.best[name]) for name in ("step", "epoch"))
        like = abstract_params(settings)
        params = checkpoints.restore_params(step, like, devices.single_device())
    count = settings.num_replicas
    if count == 1:
        return epoch, step, progress.rows, [params]
    replicas = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(count)]
    return epoch, step, progress.rows, replicas


def _from_weights(
    folders: Sequence[Path], settings: EvaluationSettings
) -> tuple[int, int, Rows, list[Params]]:
    """Restores epoch, step, rows and each replica's parameters."""
    like = abstract_params(dataclasses.replace(settings, num_replicas=1))
    params, metadata = zip(*(read_weights(f / WEIGHTS_NAME, like) for f in folders), strict=True)
    rows = [metrics.read_rows(folder / "metrics.csv") for folder in folders]
    try:
        epoch, step = int(metadata[0]["epoch"]), int(metadata[0]["step"])
    except (KeyError, ValueError) as error:
        path = folders[0] / WEIGHTS_NAME
        raise UserError(f"{path}: its metadata lack epoch or step; export it again") from error
    return epoch, step, [*zip(*rows, strict=True)], [*map(devices.to_device, params)]


def restore_best(run: RunDirectory) -> TrainedRun:
    """Restores the parameters of the best epoch of a run.

    They come from its checkpoints, or from `weights.safetensors` in a run without checkpoints.

    Raises:
      UserError: the run has no parameters, or they are damaged.
    """
    config, folders = run.config, run.replica_folders
    settings = evaluation_settings(config, run.spec)
    has_weights = not (run.path / "checkpoints").exists() and (folders[0] / WEIGHTS_NAME).exists()
    restored = _from_weights(folders, settings) if has_weights else _from_checkpoints(run, settings)
    epoch, step, rows, params = restored
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
    source: RunDirectory,
    output: str | os.PathLike[str] | None = None,
    names: Sequence[str] = (),
    input: str | os.PathLike[str] | None = None,
) -> TrainedRun:
    """Restores the best epoch of a run whose files, from now on, go to `output`.

    Args:
      source: the run directory.
      output: a folder, made if it is missing; the run directory if None.
      names: of the files and folders that are written to each replica's folder. Outside the run
        directory the user's own files must not have these names, and the names are recorded.
      input: the user's images, which must not be in `output`, nor around it.

    Raises:
      UserError: as `restore_best` does; or files cannot be written there.
    """
    target = source.path if output is None else local_path("--output", output)
    is_apart = target.resolve() != source.path.resolve()
    if is_apart and input is not None:
        _check_apart(local_path("--input", input), target)
    run = restore_best(source)
    if not is_apart:
        _make_writable(source.path)
        return run
    replicas = [
        dataclasses.replace(replica, folder=target / os.path.relpath(replica.folder, source.path))
        for replica in run.replicas
    ]
    folders = {target, *(replica.folder for replica in replicas)}
    for folder in folders:
        check_names(folder, names)
    for folder in folders:
        _make_writable(folder)
        record_names(folder, names)
    return dataclasses.replace(run, workdir=target, replicas=replicas)


def _check_apart(images: Path, target: Path) -> None:
    """Raises UserError if the next command would read the output as images."""
    first, second = images.resolve(), target.resolve()
    if images.is_dir() and (first.is_relative_to(second) or second.is_relative_to(first)):
        raise UserError(
            f"--output={target}: overlaps --input={images}, so the output would be read as images "
            "the next time; give a folder that is not inside the other"
        )


def _make_writable(folder: Path) -> None:
    """Makes a folder; raises UserError before the work begins if files cannot be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}); give another --output=FOLDER"
        ) from error


def load_data(run: TrainedRun) -> Dataset:
    """Loads the data that a run was made from.

    Raises:
      UserError: they cannot be read, or are not the same any more.
    """
    dataset = datasets.load(**run.config.data)
    run_directory.check_same_data(run.source, dataset.sha256)
    return dataset
