"""Standard output and error whose encoding or reader does not take everything."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator

from vae_jax.runtime import interrupts


def escape_what_cannot_be_encoded() -> None:
    """Escapes characters that an output's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def quiet_without_reader() -> Iterator[None]:
    """Ends the process silently if its output has no reader, as in `| head -1`.

    If the output cannot be written for another reason, one line reports it.
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
    """Writes the buffer of standard output."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"error: standard output: {error.strerror}; results are saved", file=sys.stderr)
        _silence()
        sys.exit(1)


def _silence() -> None:
    """Discards the buffers, which would raise again when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
