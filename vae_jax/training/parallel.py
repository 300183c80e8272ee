"""Functions of one replica for several, on the devices of a run: to be called inside `jax.jit`.

With more than one replica every array of a train state has a leading axis, one entry for each
seed. On several devices the arrays lie as `vae_jax/runtime/devices.py` says: each device has some
of the replicas, or some images of each batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.model.structs import Batch
from vae_jax.runtime.devices import DATA_AXIS, REPLICA_AXIS
from vae_jax.training.settings import EvaluationSettings


def for_each_replica(
    settings: EvaluationSettings,
    function: Callable,
    in_axes: Sequence[int | None],
    out_axes: Any = 0,
) -> Callable:
    """Maps a function of one replica over all of them; returns it as it is where there is one.

    Args:
      settings: how many replicas there are, and on which devices.
      function: from one replica's arrays to a tree of arrays.
      in_axes: for each argument the axis of its replicas, 0, or None if all share it.
      out_axes: the axis of the replicas in what is returned, or one for each part of it.
    """
    if settings.num_replicas == 1:
        return function
    mapped = jax.vmap(function, in_axes=tuple(in_axes), out_axes=out_axes)
    if not settings.splits_replicas:
        return mapped
    # Not left to the compiler: no device needs to know of another's replicas.
    return jax.shard_map(
        mapped,
        mesh=settings.mesh,
        in_specs=tuple(P() if axis is None else P(REPLICA_AXIS) for axis in in_axes),
        out_specs=jax.tree.map(lambda axis: P(*[None] * axis, REPLICA_AXIS), out_axes),
        check_vma=False,
    )


def shard_batch(settings: EvaluationSettings, batch: Batch) -> Batch:
    """Gives each device its images of a batch."""
    return _constrain(settings, batch, P(DATA_AXIS))


def replicate(settings: EvaluationSettings, tree: Any) -> Any:
    """Keeps arrays that all devices need whole on every device."""
    return _constrain(settings, tree, P())


def _constrain(settings: EvaluationSettings, tree: Any, spec: P) -> Any:
    if settings.mesh is None or not settings.splits_batches:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(settings.mesh, spec))
