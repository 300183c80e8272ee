"""Paths, atomic writes, JSON files, and records of dataclasses."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import dacite

from vae_jax.runtime import locks
from vae_jax.runtime.errors import UserError

# Prefix of files that are being written.
PARTIAL_PREFIX = ".partial."

Record = TypeVar("Record")


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address, like gs://bucket or gs:/bucket."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)))


def local_path(name: str, path: str | os.PathLike[str]) -> Path:
    """Makes a path, in which `~` or `~user` becomes that user's home folder.

    Raises:
      UserError: names the flag `name`; the path is an address, or the home folder does not exist.
    """
    if is_address(path):
        raise UserError(f"{name}={os.fspath(path)}: is an address; give a path on this machine")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{name}={os.fspath(path)}: this home folder does not exist; give the full path"
        ) from error


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Makes a temporary folder in `parent`, which is locked; removes those of killed processes."""
    with locks.locked_folder(parent) as is_locked:
        for abandoned in parent.glob(f"{prefix}*") if is_locked else ():
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            dir=parent, prefix=prefix, ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is at any moment either the old one or the complete new one.

    Raises:
      OSError: names `path`.
    """
    if isinstance(content, str):
        # A file's name may contain bytes that are not text.
        content = content.encode(errors="backslashreplace")
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write, which takes the place of the one at `path` when the context ends.

    Raises:
      OSError: names `path`.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL_PREFIX)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            os.unlink(temporary)
        if isinstance(error, OSError):  # that of an open file, as of a full disk, names none
            error.filename, error.filename2 = str(path), None
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically.

    Raises:
      UserError: a number is not finite, which JSON does not allow.
    """
    try:
        content = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise UserError(
            f"{path}: not written, because a number in it is not finite: the model's parameters "
            "or outputs are too large; train with a lower train.learning_rate"
        ) from error
    write_atomically(path, content + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); the file is damaged") from error


def write_record(path: Path, record: Any) -> None:
    """Writes a dataclass as a JSON file, atomically; fields that are None are left out."""

    def without_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in items if value is not None}

    write_json(path, dataclasses.asdict(record, dict_factory=without_none))


def read_record(path: Path, record_type: type[Record]) -> Record:
    """Reads a dataclass that `write_record` wrote.

    Raises:
      UserError: the file cannot be read, or lacks a field.
    """
    return to_record(path, read_json(path), record_type)


def to_record(path: Path, value: Any, record_type: type[Record]) -> Record:
    """Makes a dataclass of what the JSON file at `path` holds; other entries are ignored.

    Raises:
      UserError: it lacks a field.
    """
    try:
        return dacite.from_dict(record_type, value)
    except (dacite.DaciteError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {error}; the file is damaged") from error
