"""Ctrl-C and SIGTERM: asked for at any moment, obeyed where nothing is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


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


def raise_on_sigterm() -> None:
    """Makes SIGTERM raise `Interrupted`, as Ctrl-C raises KeyboardInterrupt."""

    def handler(signal_number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal_number)

    signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Notes Ctrl-C and SIGTERM instead of obeying them; the second one is obeyed at once.

    Yields:
      The request, to be looked at wherever ending is safe. Outside the main thread, which alone
      can handle signals, there never is one.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(signal_number: int, frame: FrameType | None) -> None:
        request.signal_number = signal_number
        restore()

    for number in numbers:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
