"""Locks that end with their process; systems without fcntl (Windows) have none."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:
    fcntl = None


def lock(descriptor: int) -> None:
    """Locks an open file or folder until it is closed; does nothing without fcntl.

    Raises:
      BlockingIOError: another process has locked it.
      OSError: its file system has no locks.
    """
    if fcntl:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """Locks a folder while the context is open; waits for another process, which is reported.

    Yields:
      Whether it is locked: some file systems have no locks.
    """
    descriptor, is_locked = os.open(folder, os.O_RDONLY), fcntl is not None
    try:
        try:
            lock(descriptor)
        except BlockingIOError:
            assert fcntl
            print(f"{str(folder)!r}: waiting for another process", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)
