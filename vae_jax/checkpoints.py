"""Checkpoints through Orbax: the last three epochs and the best by validation loss."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vae_jax.train_state import TrainState

NUM_LATEST = 3


def _validation_loss(metrics: dict[str, float]) -> float:
    return metrics["validation_loss"]


class Checkpoints:
    """The checkpoints of one run, numbered by epoch. Use as a context manager."""

    def __init__(self, workdir: Path):
        """Opens `workdir/checkpoints`, which need not exist yet."""
        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(NUM_LATEST),
                preservation_policy.BestN(get_metric_fn=_validation_loss, reverse=True, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=_validation_loss,
            best_mode="min",
            # The training step donates its buffers: a save must be over before the next one.
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(workdir.absolute() / "checkpoints", options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._manager.close()

    @property
    def latest_epoch(self) -> int | None:
        """The last epoch saved, or None."""
        return self._manager.latest_step()

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the lowest validation loss, or None."""
        return self._manager.best_step()

    def save(self, epoch: int, state: TrainState, metrics: dict[str, float]) -> None:
        """Saves the state after `epoch`; a checkpoint is there whole or not at all."""
        self._manager.save(
            epoch, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), metrics=metrics
        )

    def restore(self, epoch: int, like: TrainState) -> TrainState:
        """Restores the state after `epoch`, with the shapes and types of `like`."""
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), like
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(epoch, args=args).state
