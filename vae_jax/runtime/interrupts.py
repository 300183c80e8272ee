"""Ctrl-C and SIGTERM, handled where nothing is lost, and output that nobody reads."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the process to end; like KeyboardInterrupt, not an error."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(last_line(signal_number, message))
        self.signal_number = signal_number


class Request:
    """A request to end; `signal_number` is None until a signal arrives."""

    signal_number: int | None = None


def last_line(signal_number: int, message: str = "") -> str:
    """Returns the message that a signal ended the process."""
    name = signal.Signals(signal_number).name
    return "; ".join(filter(None, (f"ended by {name}", message, "the same command resumes it")))


def status(signal_number: int) -> int:
    """Returns the exit status of a process that a signal ended, by the convention of shells."""
    return 128 + signal_number


def exit_on_signal() -> None:
    """Makes Ctrl-C and SIGTERM end the process at once, with a line that says so.

    It raises no exception: in Python code that native code calls, as JAX does to compare static
    arguments, an exception would turn into another or abort the process. All writes are atomic.
    """

    def handler(signal_number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError, OSError):  # during a print, or without a reader
            sys.stdout.flush()
        behind_bar = "\n" if sys.stderr.isatty() else ""
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"{behind_bar}{last_line(signal_number)}\n".encode())
        os._exit(status(signal_number))

    for number in _NUMBERS:
        signal.signal(number, handler)


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
        sys.exit(status(signal.SIGPIPE))


@contextlib.contextmanager
def defer_signals() -> Iterator[Request]:
    """Records Ctrl-C and SIGTERM for the caller to handle; a second one is obeyed at once.

    Does nothing outside the main thread, which alone can handle signals.

    Yields:
      The request, which the caller checks wherever ending is safe.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in _NUMBERS}

    def note(signal_number: int, frame: FrameType | None) -> None:
        if request.signal_number is None:
            request.signal_number = signal_number
        else:
            signal.signal(signal_number, handlers[signal_number])
            signal.raise_signal(signal_number)

    for number in _NUMBERS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
