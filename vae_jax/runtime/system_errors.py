"""What a machine can do to a run, told in one line: a full disk, too little memory."""

import contextlib
from collections.abc import Iterator

import ml_collections

from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError


@contextlib.contextmanager
def told_in_one_line(config: ml_collections.ConfigDict) -> Iterator[None]:
    """Turns the errors of files and of memory into UserError.

    Args:
      config: the run's, for what to lower when memory is short.
    """
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename  # of a renaming, the name it should get
        where = f"{name}: " if name else ""
        raise UserError(
            f"{where}{error.strerror or type(error).__name__}; what was saved before is kept: mend "
            "this, then give the same command again"
        ) from error
    except Exception as error:
        if not devices.is_out_of_memory(error):
            raise
        train = config.train
        several = f", or train.num_replicas {train.num_replicas}" if train.num_replicas > 1 else ""
        raise UserError(
            f"the device has too little memory for train.batch_size {train.batch_size}{several}, "
            "or for the model: lower these"
        ) from error
