"""Which devices compute what: the processes of a cluster, the mesh, where arrays lie.

A run computes on every device that JAX shows, in one process or several. Each device has some
of the replicas if they divide evenly, otherwise some images of each batch; parameters and
images are then on every device. One device is the mesh of one.
"""

import os
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from vae_jax.runtime.errors import UserError

REPLICA_AXIS = "replica"
DATA_AXIS = "data"

Value = TypeVar("Value")

# A process that JAX cannot place by itself is told by these, as the coordinator's address is.
_NUM_PROCESSES = "JAX_NUM_PROCESSES"
_PROCESS_ID = "JAX_PROCESS_ID"


def connect() -> None:
    """Joins the other processes of the run, if there are others.

    JAX finds them under SLURM, Open MPI, Kubernetes and on Cloud TPU. Elsewhere the environment
    names them: `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`. To be called before anything is computed.

    Raises:
      UserError: the environment does not fit, or the others cannot be reached.
    """
    # Else it would take SIGTERM, which `interrupts.py` has its own way with.
    jax.config.update("jax_enable_preemption_service", False)
    numbers = {}
    try:
        for field, name in (("num_processes", _NUM_PROCESSES), ("process_id", _PROCESS_ID)):
            if name in os.environ:
                numbers[field] = int(os.environ[name])
        jax.distributed.initialize(**numbers)
    except (ValueError, RuntimeError) as error:
        if not numbers and "coordinator_address should be defined" in str(error):
            return  # No cluster: this process alone.
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot join the other processes: {reason}; JAX_COORDINATOR_ADDRESS (host:port of "
            f"process 0), {_NUM_PROCESSES} and {_PROCESS_ID} must fit together"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether a device, or the machine, had too little memory."""
    if isinstance(error, MemoryError):
        return True
    told = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, jax.errors.JaxRuntimeError) and any(t in str(error) for t in told)


def by_platform(cpu: Value, accelerator: Value) -> Value:
    """Returns the constant that suits the platform JAX computes on by default."""
    return cpu if jax.default_backend() == "cpu" else accelerator


def is_first_process() -> bool:
    """Tells whether this is the one process that writes."""
    return jax.process_index() == 0


def any_process_true(flag: bool) -> bool:
    """Tells whether the flag is set in any of the run's processes; all of them must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def barrier(name: str) -> None:
    """Waits until every process of the run has come here."""
    multihost_utils.sync_global_devices(name)


def single_device() -> SingleDeviceSharding:
    """Returns the sharding that puts arrays on this process's first device."""
    return SingleDeviceSharding(jax.local_devices()[0])


def make_mesh(num_replicas: int, batch_size: int) -> Mesh:
    """Makes the mesh of the run's devices, with the axes `REPLICA_AXIS` and `DATA_AXIS`.

    Args:
      num_replicas: seeds trained side by side.
      batch_size: images in a step.

    Raises:
      UserError: the devices divide neither the replicas nor the batch.
    """
    count = jax.device_count()
    if num_replicas % count == 0:
        shape = (count, 1)
    elif batch_size % count == 0:
        shape = (1, count)
    else:
        below = batch_size // count * count
        nearest = " or ".join(str(size) for size in (below, below + count) if size)
        raise UserError(
            f"train.batch_size is {batch_size}, which {count} devices do not divide; "
            f"nearest: {nearest}; or a multiple of {count} as train.num_replicas"
        )
    return jax.make_mesh(shape, (REPLICA_AXIS, DATA_AXIS), axis_types=(AxisType.Auto,) * 2)


def state_sharding(mesh: Mesh) -> NamedSharding:
    """Returns where a train state lies: replicas apart, or the whole of it on every device."""
    return NamedSharding(mesh, P(REPLICA_AXIS) if mesh.shape[REPLICA_AXIS] > 1 else P())


def shard_state(state: Any, mesh: Mesh) -> Any:
    """Puts a train state, the same in every process, where `state_sharding` says."""
    return jax.tree.map(lambda leaf: _place(leaf, state_sharding(mesh)), state)


def replicate(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Puts an array, the same in every process, on every device."""
    return _place(array, NamedSharding(mesh, P()))


def _place(array: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _place(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    values = np.asarray(array)
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def to_host(tree: Any) -> Any:
    """Copies a tree's arrays to NumPy arrays, whichever devices and processes they are on."""
    return jax.tree.map(_to_host, tree)


def _to_host(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)
