"""Which devices compute what: the processes of a cluster, the mesh, where arrays lie.

A run computes on every device that JAX shows, in one process or several. Each device has some
of the replicas if they divide evenly, otherwise some images of each batch; parameters and
images are then on every device. One device is the mesh of one.
"""

import concurrent.futures
import contextlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from vae_jax.runtime.errors import UserError, describe

REPLICA_AXIS = "replica"
DATA_AXIS = "data"

Value = TypeVar("Value")

# A process that JAX cannot place by itself is told by these, as the coordinator's address is.
_NUM_PROCESSES = "JAX_NUM_PROCESSES"
_PROCESS_ID = "JAX_PROCESS_ID"
# How many processes there are, each set by what starts them; the first that is set is right: an
# interactive step of SLURM has one task, whatever its allocation has.
_COUNTS = (_NUM_PROCESSES, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_KUBERNETES = "KUBERNETES_SERVICE_HOST"
# Without it JAX cannot tell the pods of a job apart.
_POD_INDEX = "JOB_COMPLETION_INDEX"
# What tells a process whom it waits for.
_NAMED = (
    "JAX_COORDINATOR_ADDRESS",
    _PROCESS_ID,
    *_COUNTS,
    "SLURM_PROCID",
    "SLURM_STEP_NODELIST",
    "OMPI_COMM_WORLD_RANK",
    _POD_INDEX,
    _KUBERNETES,
    "TPU_WORKER_HOSTNAMES",
)
_PATIENCE_SECONDS = 10.0


def connect(detect_cluster: bool = True) -> None:
    """Joins the other processes of the run, if there are others.

    JAX finds them under SLURM, Open MPI, Kubernetes and on Cloud TPU. Elsewhere the environment
    names them: `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`. To be called before anything is computed. Signals are obeyed meanwhile.

    Args:
      detect_cluster: whether to look for others that the environment does not name.

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
        if _is_alone(detect_cluster):
            return
        with _no_pod_without_index():
            _initialize(
                cluster_detection_method=None if detect_cluster else "deactivate", **numbers
            )
    except Exception as error:  # a cluster's own package may raise anything
        if not numbers and "coordinator_address should be defined" in str(error):
            return  # No cluster: this process alone.
        raise UserError(
            f"cannot join the other processes ({_told_by() or 'a cluster'}): {describe(error)}; "
            f"JAX_COORDINATOR_ADDRESS (host:port of process 0), {_NUM_PROCESSES} and {_PROCESS_ID} "
            "must fit together; with --nodetect_cluster a cluster is not looked for"
        ) from error


def _is_alone(detect_cluster: bool) -> bool:
    """Tells whether the environment says that this is the one process there is."""
    names = _COUNTS if detect_cluster else (_NUM_PROCESSES,)
    count = next((os.environ[name] for name in names if name in os.environ), None)
    return count == "1" and os.environ.get(_PROCESS_ID, "0") == "0"


@contextlib.contextmanager
def _no_pod_without_index() -> Iterator[None]:
    """Keeps JAX from asking Kubernetes about a pod that is none of several of a job."""
    hidden = {} if _POD_INDEX in os.environ else {_KUBERNETES: os.environ.pop(_KUBERNETES, None)}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in hidden.items() if value is not None})


def _told_by() -> str:
    """Lists what the environment says of the other processes."""
    return " ".join(f"{name}={os.environ[name]}" for name in _NAMED if name in os.environ)


def _initialize(**arguments: Any) -> None:
    """Joins the others in a thread: its wait is native code, in which no signal is handled."""
    with ThreadPoolExecutor(1) as pool:
        joined = pool.submit(jax.distributed.initialize, **arguments)
        done, _ = concurrent.futures.wait([joined], _PATIENCE_SECONDS)
        if not done:
            print(
                f"waiting for the other processes of the run ({_told_by() or 'a cluster'}); with "
                "--nodetect_cluster a cluster is not looked for",
                file=sys.stderr,
                flush=True,
            )
        joined.result()


def check_platform() -> None:
    """Raises UserError where JAX cannot compute on what the environment names."""
    try:
        jax.devices()
    except Exception as error:  # an AssertionError where a package lacks, a RuntimeError elsewhere
        raise UserError(
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS')!r}, on which JAX cannot compute "
            f"here ({describe(error)}); unset it, set JAX_PLATFORMS=cpu, or install JAX for that "
            'platform, e.g. pip install "jax[cuda12]" for NVIDIA and "jax[tpu]" for Cloud TPU'
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
    return bool(max_over_processes(flag))


def max_over_processes(value: float) -> float:
    """Returns the largest of the values in the run's processes; all of them must ask."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.process_allgather(np.array(value, np.float32)).max())


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


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a tree's arrays, the same in every process, on every device."""
    return jax.tree.map(lambda array: _place(array, NamedSharding(mesh, P())), tree)


def _place(array: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _place(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    values = np.asarray(array)
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def to_device(tree: Any) -> Any:
    """Sends a tree's NumPy arrays and numbers to this process's device, in so many words.

    So that nothing is sent unnoticed (`JAX_TRANSFER_GUARD`). With several processes a compiled
    program takes them as they are, as the same in each.
    """
    return jax.device_put(tree) if jax.process_count() == 1 else tree


def to_host(tree: Any) -> Any:
    """Copies a tree's arrays to NumPy arrays, whichever devices and processes they are on."""
    return jax.tree.map(_to_host, tree)


def _to_host(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(jax.device_get(array))
    return multihost_utils.process_allgather(array, tiled=True)
