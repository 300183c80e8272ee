"""Standard output and error, which may carry less than is said, or have no reader any more."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator

from vae_jax.runtime import interrupts


def escape_what_cannot_be_encoded() -> None:
    """Makes characters that an output's encoding lacks come out escaped, not as an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def quiet_without_reader() -> Iterator[None]:
    """Ends the process without a word once nobody reads its output, as behind `| head -1`.

    Whatever is told has been saved before. Where the output cannot be written for another
    reason, a line says so.
    """
    try:
        try:
            yield
        finally:
            _flush()
    except BrokenPipeError:
        _silence()
        sys.exit(interrupts.status(signal.SIGPIPE))


def _flush() -> None:
    """Writes what is still in the buffer."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"error: standard output: {error.strerror}; what was done is saved", file=sys.stderr)
        _silence()
        sys.exit(1)


def _silence() -> None:
    """Lets what is still in the buffers not be an error again when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
