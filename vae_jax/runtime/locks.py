"""Locks that end with their process; systems without fcntl (Windows) have none."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:
    fcntl = None

HAS_LOCKS = fcntl is not None
# Age from which an unlocked folder is abandoned: a new one is locked within this time.
_SECONDS = 1.0


def lock(descriptor: int) -> None:
    """Locks an open file or folder until it is closed; does nothing without fcntl.

    Raises:
      BlockingIOError: another process has locked it.
      OSError: its file system has no locks.
    """
    if fcntl:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked_folder(folder: Path, wait: bool = True) -> Iterator[None]:
    """Locks a folder while the context is open; raises as `lock` does.

    With `wait` it waits for another process, which is reported, and a file system without locks is
    not an error.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            lock(descriptor)
        except OSError as error:
            if not wait:
                raise
            if fcntl and isinstance(error, BlockingIOError):
                print(f"{str(folder)!r}: waiting for another process", file=sys.stderr)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Removes the folders below `parent` whose processes were killed: they are not locked."""
    for folder in parent.glob(f"{prefix}*") if HAS_LOCKS else ():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _SECONDS:
                with locked_folder(folder, wait=False):
                    shutil.rmtree(folder)
