"""Errors of the machine, such as a full disk or too little memory, in one line."""

import contextlib
from collections.abc import Iterator

import jax

from vae_jax.runtime.errors import UserError


@contextlib.contextmanager
def system_errors_as_user_errors(batch_size: int = 0) -> Iterator[None]:
    """Turns the errors of files and of memory into UserError.

    Args:
      batch_size: the run's `train.batch_size`, for the message; 0 if nothing is trained.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # the output has no reader: see `interrupts.py`
    except OSError as error:
        name = error.filename2 or error.filename  # the new name if a file was renamed
        where = f"{name}: " if name else ""
        raise UserError(
            f"{where}{error.strerror or type(error).__name__}; everything saved before is intact. "
            "Fix the problem and rerun the same command"
        ) from error
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        reasons = ("RESOURCE_EXHAUSTED", "Out of memory")
        if not isinstance(error, MemoryError) and not any(r in str(error) for r in reasons):
            raise
        if not batch_size:
            raise UserError("the device has too little memory for the model") from error
        raise UserError(
            f"the device has too little memory for train.batch_size {batch_size}, for "
            "train.num_replicas or for the model: lower these, with another --workdir if this one "
            "has a checkpoint"
        ) from error
