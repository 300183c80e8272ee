"""The best epoch of a run, restored from its checkpoints."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from vae_jax.model.vae import VAE
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError
from vae_jax.training import run_directory, steps
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.optimizer import evaluation_params
from vae_jax.training.settings import step_settings
from vae_jax.training.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Replica:
    """One seed's model, ready to be looked at.

    Attributes:
      folder: where its metrics, figures and summary are.
      seed: its seed.
      epoch: the run's best epoch.
      settings: model, optimiser and loss, of this replica alone.
      state: after `epoch`, its parameters those to evaluate.
    """

    folder: Path
    seed: int
    epoch: int
    settings: steps.StepSettings
    state: TrainState

    @property
    def model(self) -> VAE:
        """The autoencoder."""
        return self.settings.model

    @property
    def figures(self) -> Path:
        """The folder figures go to."""
        return self.folder / "figures"


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The best epoch of a run.

    Attributes:
      workdir: the run directory.
      epoch: the epoch with the lowest validation loss, averaged over the replicas.
      rows: for each epoch that a checkpoint holds, each replica's row of metrics.
      replicas: one for each seed.
    """

    workdir: Path
    epoch: int
    rows: Sequence[Sequence[dict[str, float]]]
    replicas: list[Replica]


def open_best(config: ml_collections.ConfigDict, workdir: Path) -> TrainedRun:
    """Restores the best checkpoint of the run in `workdir`.

    Raises:
      UserError: there is no run, it is of another configuration, or it has no checkpoint.
    """
    run_directory.check_same_config(workdir, config.to_dict())
    settings = step_settings(config)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        progress = checkpoints.latest_progress()
        if progress is None or progress.best is None:
            raise UserError(f"--workdir={workdir}: holds no finished epoch yet; train first")
        step, epoch = (int(progress.best[name]) for name in ("step", "epoch"))
        like = steps.abstract_state(settings)
        state, _ = checkpoints.restore(step, like, devices.single_device())
    state = state.replace(params=evaluation_params(state.params, state.opt_state))
    folders = run_directory.replica_folders(workdir, config.seed, settings.num_replicas)
    states = [state]
    if settings.num_replicas > 1:
        states = [steps.replica(state, index) for index in range(settings.num_replicas)]
    alone = dataclasses.replace(settings.in_epoch(epoch), num_replicas=1)
    replicas = [
        Replica(folder, config.seed + index, epoch, alone, state)
        for index, (folder, state) in enumerate(zip(folders, states, strict=True))
    ]
    return TrainedRun(workdir, epoch, progress.rows, replicas)
