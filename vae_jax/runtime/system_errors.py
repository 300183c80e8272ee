"""Errors of the machine, such as a full disk or too little memory, in one line."""

import contextlib
from collections.abc import Iterator

from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError


@contextlib.contextmanager
def system_errors_as_user_errors(batch_size: int = 0, num_replicas: int = 1) -> Iterator[None]:
    """Turns the errors of files and of memory into UserError.

    Args:
      batch_size: the run's `train.batch_size`, for the message; 0 if nothing is trained.
      num_replicas: the run's `train.num_replicas`, for the message.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # the output has no reader: see `output.py`
    except OSError as error:
        name = error.filename2 or error.filename  # the new name if a file was renamed
        where = f"{name}: " if name else ""
        raise UserError(
            f"{where}{error.strerror or type(error).__name__}; everything saved before is intact. "
            "Fix the problem and rerun the same command"
        ) from error
    except Exception as error:
        if not devices.is_out_of_memory(error):
            raise
        if not batch_size:
            raise UserError("the device has too little memory for the model") from error
        several = f", for train.num_replicas {num_replicas}" if num_replicas > 1 else ""
        raise UserError(
            f"the device has too little memory for train.batch_size {batch_size}{several}, or for "
            "the model: lower these, with another --workdir if this one has a checkpoint"
        ) from error
