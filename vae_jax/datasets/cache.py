"""Folders of data that are made once and read at every later start."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vae_jax.runtime.errors import UserError, describe
from vae_jax.runtime.files import local_path, scratch_folder

# Lists the key of the data, then the SHA-256 of each file, or the size of a large one.
_RECORD = "SHA256SUMS"
_LARGE = 64 << 20  # bytes


def cache_folder(data_dir: str | None) -> Path:
    """Returns the folder of all cached data, by default below that of TensorFlow Datasets."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return local_path("data.data_dir", data_dir or default) / "vae_jax"


def make_once(folder: Path, key: str, make: Callable[[Path], None]) -> Path:
    """Makes a folder of cached data if it is missing, outdated or damaged; returns it.

    The folder appears complete, with one renaming; of several processes one makes it, and the
    others wait. Data cached with another `key`, of one line, are outdated. `make` writes files
    into an empty folder. They are compared by their SHA-256, those of more than 64 MiB by size
    only: images carry checksums of their own (`StoredImages`).

    Raises:
      UserError: the data cannot be written.
    """
    if _is_valid(folder, key):
        return folder
    with errors_of_writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder.parent, ".making.") as scratch:
            if _is_valid(folder, key):  # another process has made it meanwhile
                return folder
            if folder.exists():
                print(f"{str(folder)!r}: outdated or damaged; making it again", file=sys.stderr)
            (made := scratch / "made").mkdir()
            make(made)
            (made / _RECORD).write_text(_record(made, key))
            if folder.exists():
                folder.rename(scratch / "replaced")
            made.rename(folder)
    return folder


@contextlib.contextmanager
def errors_of_writing(folder: Path) -> Iterator[None]:
    """Turns the system's errors of writing cached data into UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write data to {folder} ({describe(error)}); give another folder with "
            "--config.data.data_dir=FOLDER"
        ) from error


def _is_valid(folder: Path, key: str) -> bool:
    """Whether a folder holds exactly the files that were cached with this key."""
    try:
        return (folder / _RECORD).read_text() == _record(folder, key)
    except (OSError, ValueError):  # ValueError: not UTF-8
        return False


def _record(folder: Path, key: str) -> str:
    lines = [f"{key}\n"]
    for path in sorted(folder.iterdir()):
        if path.name != _RECORD:
            check = f"{path.stat().st_size} bytes"
            if path.stat().st_size <= _LARGE:
                check = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{check}  {path.name}\n")
    return "".join(lines)


def fingerprint(path: str) -> list[int]:
    """Returns numbers that change with a file: size, times and inode."""
    try:
        status = os.stat(path)
    except OSError:  # reading the file reports it
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def digest(value: Any) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of a value that JSON can hold."""
    # JSON escapes bytes of names that are not UTF-8.
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
