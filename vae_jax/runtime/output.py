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
    """Ends the process silently if its output has no reader, as in `| head -1`."""
    try:
        try:
            yield
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):  # else the buffers would raise when the interpreter ends
            os.dup2(nowhere, descriptor)
        sys.exit(interrupts.status(signal.SIGPIPE))
