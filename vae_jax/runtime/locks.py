"""Locks that end with their process; systems without fcntl (Windows) have none."""

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:
    fcntl = None

HAS_LOCKS = fcntl is not None
# Age at which an unlocked folder is abandoned: made on this machine, on another.
_SECONDS_HERE, _SECONDS_ELSEWHERE = 1.0, 86_400.0


def lock(descriptor: int) -> None:
    """Locks an open file or folder until it is closed; does nothing without fcntl.

    Raises:
      BlockingIOError: another process has locked it.
      OSError: its file system has no locks.
    """
    if fcntl:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked_folder(folder: Path, waiting: str = "") -> Iterator[None]:
    """Locks a folder while the context is open; raises as `lock` does.

    With a message `waiting`, which is then printed, it waits for another process; with one, a file
    system without locks is not an error.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            lock(descriptor)
        except BlockingIOError:
            if not waiting or not fcntl:
                raise
            print(waiting, file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            if not waiting:
                raise
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Removes the folders below `parent` whose processes were killed: they are not locked."""
    for folder in parent.glob(f"{prefix}*") if HAS_LOCKS else ():
        # The locks of another machine may not be seen here.
        seconds = _SECONDS_HERE if socket.gethostname() in folder.name else _SECONDS_ELSEWHERE
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > seconds:
                with locked_folder(folder):
                    shutil.rmtree(folder)
