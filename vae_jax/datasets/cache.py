"""Folders of data that are made once and read at every later start."""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vae_jax.runtime.errors import UserError, system_reason
from vae_jax.runtime.files import local_path, move_unless_there, scratch_folder

# Lists the key of the data, then the SHA-256 of each file.
_RECORD = "SHA256SUMS"

Data = TypeVar("Data")


def cache_folder(data_dir: str | None) -> Path:
    """Returns the folder of all cached data, by default below that of TensorFlow Datasets."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return local_path("data.data_dir", data_dir or default) / "vae_jax"


def read_or_make(
    folder: Path, key: str, make: Callable[[Path], Path], read: Callable[[Path], Data]
) -> Data:
    """Reads a folder of cached data, which is made first if it is missing, outdated or damaged.

    The folder appears complete, with one renaming. Data cached with another `key`, of one line, are
    outdated. `make` writes files below an empty folder and returns their folder.

    Raises:
      UserError: the data cannot be written.
    """
    try:
        if folder.exists():
            if _is_valid(folder, key):
                return read(folder)
            print(f"{str(folder)!r}: outdated or damaged; making the data again", file=sys.stderr)
        with scratch_folder(folder.parent, ".making.") as scratch:
            made = make(scratch)
            (made / _RECORD).write_text(_record(made, key))
            data = read(made)
            if folder.exists() and not _is_valid(folder, key):
                folder.rename(scratch / "replaced")
            move_unless_there(made, folder)
            return data
    except OSError as error:
        raise UserError(
            f"cannot write data to {folder} ({system_reason(error)}); give another folder with "
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
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{sha256}  {path.name}\n")
    return "".join(lines)
