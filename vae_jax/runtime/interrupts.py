"""Ctrl-C and SIGTERM: asked for at any moment, obeyed where nothing is lost."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the process to end; like KeyboardInterrupt, no error.

    Attributes:
      signal_number: which signal.
    """

    def __init__(self, signal_number: int, message: str = ""):
        super().__init__(message)
        self.signal_number = signal_number


class Request:
    """A request to end, once there is one."""

    signal_number: int | None = None


def last_line(signal_number: int, message: str = "") -> str:
    """Returns what the user is told when a signal has ended the process."""
    name = signal.Signals(signal_number).name
    return "; ".join(filter(None, (f"ended by {name}", message, "the same command goes on")))


def status(signal_number: int) -> int:
    """Returns the exit status of a process that a signal has ended, as shells count it."""
    return 128 + signal_number


def exit_on_signal() -> None:
    """Makes Ctrl-C and SIGTERM end the process at once, with a line that says so.

    Without an exception: where native code calls Python, as JAX does to compare static arguments,
    that would come out as another one or abort the process. No file is half-written at any moment.
    """

    def handler(signal_number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError, OSError):  # amid a print, or nobody reads it
            sys.stdout.flush()
        behind_bar = "\n" if sys.stderr.isatty() else ""
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"{behind_bar}{last_line(signal_number)}\n".encode())
        os._exit(status(signal_number))

    for number in _NUMBERS:
        signal.signal(number, handler)


@contextlib.contextmanager
def _at_first_signal(handle: Callable[[int], None]) -> Iterator[None]:
    """Calls `handle` at the first Ctrl-C or SIGTERM; the second does what it would have done.

    Outside the main thread, which alone can handle signals, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _NUMBERS}
    has_fired = False

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def first(signal_number: int, frame: FrameType | None) -> None:
        nonlocal has_fired
        if has_fired:  # the second one came before its handler was restored
            signal.signal(signal_number, handlers[signal_number])
            signal.raise_signal(signal_number)
            return
        has_fired = True
        restore()
        handle(signal_number)

    for number in _NUMBERS:
        signal.signal(number, first)
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def defer_signals() -> Iterator[Request]:
    """Notes Ctrl-C and SIGTERM instead of obeying them; the second one is obeyed at once.

    Yields:
      The request, to be looked at wherever ending is safe. Outside the main thread there never is
      one.
    """
    request = Request()

    def note(signal_number: int) -> None:
        request.signal_number = signal_number

    with _at_first_signal(note):
        yield request


@contextlib.contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM raise `Interrupted`, for code that cleans up behind itself.

    Not around JAX's: see `exit_on_signal`. The second one is obeyed at once.
    """

    def raise_interrupted(signal_number: int) -> None:
        raise Interrupted(signal_number)

    with _at_first_signal(raise_interrupted):
        yield
