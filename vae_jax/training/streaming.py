"""Training images that do not lie on the devices: they are sent a block of steps at a time."""

import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.model.structs import Batch
from vae_jax.runtime import devices
from vae_jax.runtime.devices import DATA_AXIS, REPLICA_AXIS
from vae_jax.training.steps import MAX_CHUNK_STEPS

_BLOCK_BYTES = 64 << 20  # of images in a block, unless a step alone needs more
_MAX_FRACTION = 0.25  # of the free memory that all images may take
# The fraction of an epoch, if it lasts some seconds, from which waiting for images is reported.
_MAX_WAITING, _MIN_SECONDS = 0.2, 5.0


class StreamedData:
    """Training images on the host, in a file or an array, and the blocks sent to the devices.

    The next block is read in a thread while the devices compute. Each device, and each process,
    reads only its own images of a batch.
    """

    def __init__(self, data: Batch, batch_size: int, num_replicas: int, mesh: Mesh):
        self._data, self._batch_size = data, batch_size
        step_bytes = batch_size * num_replicas * math.prod(data.images.shape[1:])
        self.steps_per_block = min(MAX_CHUNK_STEPS, max(1, _BLOCK_BYTES // step_bytes))
        replicas = (REPLICA_AXIS,) if num_replicas > 1 else ()
        self._sharding = NamedSharding(mesh, P(*replicas, None, DATA_AXIS))
        self._is_reported = False

    def __len__(self) -> int:
        return len(self._data)

    def blocks(self, order: jax.Array, first: int) -> Iterator[tuple[Batch, int]]:
        """Yields blocks of steps, from the epoch's step `first` on, and the step each ends before.

        The epoch's order is `<int32>[..., num_images]`, of each replica if several.

        Raises:
          UserError: images cannot be read.
        """
        size, num_steps = self.steps_per_block, len(self) // self._batch_size
        num_blocks = -(-num_steps // size)
        used = devices.to_host(order)[..., : num_steps * self._batch_size]
        # The last block has as many steps as the others, so that one program serves all.
        padding = [(0, 0)] * (used.ndim - 1) + [(0, -used.shape[-1] % (size * self._batch_size))]
        rows = np.pad(used, padding).reshape(*used.shape[:-1], num_blocks, size, self._batch_size)
        with ThreadPoolExecutor(1, "reading images") as pool:
            ahead = pool.submit(self._send, rows[..., first // size, :, :])
            waited, start = 0.0, time.perf_counter()
            for number in range(first // size, num_blocks):
                asked = time.perf_counter()
                block = ahead.result()
                waited += time.perf_counter() - asked
                if number + 1 < num_blocks:
                    ahead = pool.submit(self._send, rows[..., number + 1, :, :])
                else:  # after its last block nothing more is asked of this function
                    self._report_waiting(waited, time.perf_counter() - start)
                yield block, min((number + 1) * size, num_steps)

    def _report_waiting(self, waited: float, seconds: float) -> None:
        if seconds > _MIN_SECONDS and waited > _MAX_WAITING * seconds and not self._is_reported:
            self._is_reported = True
            print(
                f"training waits for images {waited / seconds:.0%} of the time: a copy on a faster "
                "disk would help",
                file=sys.stderr,
            )

    def _send(self, rows: np.ndarray) -> Batch:
        """Reads the images of `rows`, `<int>[..., steps, batch]`, where they are needed."""

        def send(source) -> jax.Array:
            def read(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                wanted = rows[index[: rows.ndim]]
                return source[wanted.reshape(-1)].reshape(*wanted.shape, *source.shape[1:])

            shape = (*rows.shape, *source.shape[1:])
            return jax.make_array_from_callback(shape, self._sharding, read)

        return jax.tree.map(send, self._data)


def place(
    data: Batch, on_device: str, batch_size: int, num_replicas: int, mesh: Mesh
) -> Batch | StreamedData:
    """Sends all training images, pixels as `<uint8>`, to every device, or prepares to stream them.

    They are streamed if `on_device` is "false", or if it is "auto" and they need more than a
    quarter of a device's free memory.
    """
    is_streamed = on_device == "false"
    if on_device == "auto":
        needed, free = data.images.nbytes, devices.free_bytes(mesh.local_mesh.size)
        is_streamed = devices.any_process_true(needed > _MAX_FRACTION * free)
        if is_streamed and devices.is_first_process():
            print(f"data.on_device=auto: {needed / 1e9:.1f} GB of images are streamed")
    if is_streamed:
        return StreamedData(data, batch_size, num_replicas, mesh)
    return devices.replicate(jax.tree.map(np.asarray, data), mesh)
