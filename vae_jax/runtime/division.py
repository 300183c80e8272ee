"""What devices divide: replicas, the images of a batch, rows. A core of a CPU can be a device."""

import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from vae_jax.runtime.cores import available_cores
from vae_jax.runtime.devices import DATA_AXIS, REPLICA_AXIS
from vae_jax.runtime.errors import UserError

# The noise of each row is drawn by itself, so this is not `DATA_AXIS`, along which batches divide
# the noise that is drawn for all of their images.
_ROWS_AXIS = "rows"
# Limits for cores, measured on two by `benchmarks/train_step.py`: adding the gradients of more
# parameters takes longer than is gained. Fewer images each and more cores were not measured.
_MAX_DIVIDED_PARAMETERS = 4_000_000
_MIN_IMAGES_EACH = 25
_MAX_CORES = 8


def _cores_are_chosen() -> bool:
    """Whether the environment sets the number of CPU devices."""
    in_flags = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    return in_flags or "JAX_NUM_CPU_DEVICES" in os.environ


def _is_one_cpu_process() -> bool:
    return jax.default_backend() == "cpu" and jax.process_count() == 1


def offer_cores() -> None:
    """Makes each core a CPU device, unless the environment sets their number.

    Call it after `connect` and before anything is computed. Several processes have one device each.
    """
    if not (_cores_are_chosen() or jax.distributed.is_initialized()):
        jax.config.update("jax_num_cpu_devices", min(available_cores(), _MAX_CORES))


def make_mesh(
    num_replicas: int,
    batch_size: int,
    num_parameters: int = 0,
    divisible_shape: tuple[int, int] = (0, 0),
) -> Mesh:
    """Makes the mesh of the run's devices, with the axes `REPLICA_AXIS` and `DATA_AXIS`.

    It has all devices, except on a CPU whose number of devices the environment does not set.

    Args:
      num_replicas: seeds trained side by side.
      batch_size: images in a step.
      num_parameters: of all replicas together.
      divisible_shape: of a kernel of each replica whose rows devices can divide.

    Raises:
      UserError: the devices divide neither the replicas nor the batch.
    """
    count = jax.device_count()
    if _is_one_cpu_process() and not _cores_are_chosen():
        shape = divide_cores(count, num_replicas, batch_size, num_parameters, divisible_shape)
    elif num_replicas % count == 0:
        shape = (count, 1)
    elif batch_size % count == 0:
        shape = (1, count)
    else:
        below = batch_size // count * count
        nearest = " or ".join(str(size) for size in (below, below + count) if size)
        raise UserError(
            f"train.batch_size is {batch_size}, not a multiple of the {count} devices; "
            f"nearest: {nearest}; or set train.num_replicas to a multiple of {count}"
        )
    used = jax.devices()[: shape[0] * shape[1]]
    return jax.make_mesh(
        shape, (REPLICA_AXIS, DATA_AXIS), axis_types=(AxisType.Auto,) * 2, devices=used
    )


def divide_cores(
    num_cores: int,
    num_replicas: int,
    batch_size: int,
    num_parameters: int,
    divisible_shape: tuple[int, int] = (0, 0),
) -> tuple[int, int]:
    """Returns how many parts of the replicas, and how many of a batch, make steps fastest.

    One of them is 1; their product is at most the number of cores. The arguments are those of
    `make_mesh`.
    """
    for parts in range(num_cores, 1, -1):
        if num_replicas % parts == 0:
            return parts, 1
    rows, columns = divisible_shape
    for parts in range(min(num_cores, batch_size // _MIN_IMAGES_EACH), 1, -1):
        divided = num_replicas * rows * columns if rows % parts == 0 else 0
        if batch_size % parts == 0 and num_parameters - divided <= _MAX_DIVIDED_PARAMETERS:
            return 1, parts
    return 1, 1


def divide_rows(function: Callable[..., Any], params: Any, *rows: Any) -> Any:
    """Calls a function of parameters and rows, the rows divided over the cores of a CPU if it pays.

    To be used in `jax.jit`.

    Args:
      function: of the parameters and arrays `[n, ...]`, to arrays of n rows.
      params: a tree of arrays.
      *rows: trees of arrays.
    """
    num_rows = len(jax.tree.leaves(rows)[0])
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    _, parts = divide_cores(jax.device_count(), 1, num_rows, num_parameters)
    if parts == 1 or not _is_one_cpu_process():
        return function(params, *rows)
    mesh = jax.make_mesh(
        (parts,), (_ROWS_AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:parts]
    )
    in_specs = (P(), *[P(_ROWS_AXIS)] * len(rows))
    divided = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=P(_ROWS_AXIS), check_vma=False
    )
    return divided(params, *rows)
