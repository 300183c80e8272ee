"""Processes and the placement of arrays.

A run computes on every device that JAX shows, in one process or several. Each device has some of
the replicas if they divide evenly, otherwise some images of each batch; parameters and images are
then on every device.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.runtime.errors import UserError, describe

REPLICA_AXIS = "replica"
DATA_AXIS = "data"

_COORDINATOR = "JAX_COORDINATOR_ADDRESS"
_NUM_PROCESSES = "JAX_NUM_PROCESSES"
_PROCESS_ID = "JAX_PROCESS_ID"


def connect(distributed: bool = False) -> None:
    """Joins the other processes of the run. Call it before anything is computed.

    The environment names them: `JAX_COORDINATOR_ADDRESS` (host:port of process 0),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. JAX itself finds the rest under SLURM, Open MPI,
    Kubernetes and on Cloud TPU.

    Args:
      distributed: joins them although the environment has no coordinator's address.

    Raises:
      UserError: the environment does not fit, or the others cannot be reached.
    """
    # Otherwise JAX handles SIGTERM, which `interrupts.py` does.
    jax.config.update("jax_enable_preemption_service", False)
    is_named = {_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID} & {*os.environ}
    if os.environ.get(_NUM_PROCESSES) == "1" or not (distributed or is_named):
        return
    fields = (("num_processes", _NUM_PROCESSES), ("process_id", _PROCESS_ID))
    try:
        known: Any = {name: int(os.environ[var]) for name, var in fields if var in os.environ}
        known["cluster_detection_method"] = None if distributed else "deactivate"
        with ThreadPoolExecutor(1) as pool:  # native code waits, in which no signal is handled
            pool.submit(jax.distributed.initialize, **known).result()
    except Exception as error:  # a cluster's own package may raise anything
        raise UserError(
            f"cannot join the other processes of the run ({describe(error)}); {_COORDINATOR} "
            f"(host:port of process 0), {_NUM_PROCESSES} and {_PROCESS_ID} must fit together"
        ) from error


def check_platform() -> None:
    """Raises UserError if JAX cannot compute on the platform that the environment names."""
    try:
        jax.devices()
    except Exception as error:  # AssertionError or RuntimeError
        raise UserError(
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS')!r}, on which JAX cannot compute "
            f"here ({describe(error)}); unset it, set JAX_PLATFORMS=cpu, or install JAX for that "
            'platform, e.g. pip install "jax[cuda12]" for NVIDIA and "jax[tpu]" for Cloud TPU'
        ) from error


def free_bytes(num_devices: int) -> int:
    """Returns the free memory of a device; on CPU the part of one of `num_devices`.

    Where the machine does not say how much is free, half of its memory is taken for it.
    """
    if stats := jax.local_devices()[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration):  # not Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return free // num_devices


def is_first_process() -> bool:
    """Whether this is the one process that writes."""
    return jax.process_index() == 0


def any_process_true(flag: bool) -> bool:
    """Whether the flag is set in any process of the run; every process must call this."""
    return bool(max_over_processes(flag))


def max_over_processes(value: float) -> float:
    """Returns the largest value of the run's processes; every process must call this."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.process_allgather(np.array(value, np.float32)).max())


def barrier(name: str) -> None:
    """Waits until every process of the run calls this."""
    multihost_utils.sync_global_devices(name)


def place(tree: Any, mesh: Mesh | None, specs: Any) -> Any:
    """Places a tree's arrays, the same in every process, by a tree of specs; None: one device."""
    if mesh is None or mesh.size == 1:
        return jax.device_put(tree)
    return jax.tree.map(lambda array, spec: _place(array, NamedSharding(mesh, spec)), tree, specs)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a tree's arrays, the same in every process, on every device."""
    return place(tree, mesh, jax.tree.map(lambda _: P(), tree))


def _place(array: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _place(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    values = np.asarray(array)
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def to_device(tree: Any) -> Any:
    """Sends a tree's NumPy arrays and numbers to this process's device, explicitly.

    With several processes, compiled programs take them from the host, the same in each.
    """
    return jax.device_put(tree) if jax.process_count() == 1 else tree


def to_host(tree: Any) -> Any:
    """Copies a tree's arrays to NumPy arrays, from any device and process."""
    return jax.tree.map(_to_host, tree)


def _to_host(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(jax.device_get(array))
    return multihost_utils.process_allgather(array, tiled=True)
