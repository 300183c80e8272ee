"""Files that are whole or not there: atomic writes, JSON, records of dataclasses."""

import contextlib
import dataclasses
import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import dacite

from vae_jax.runtime import interrupts, locks
from vae_jax.runtime.errors import UserError

# What a file begins with that is not whole yet.
PARTIAL_PREFIX = ".partial."
# Far beyond what this package writes, and far below what recursive functions can follow.
_MAX_DEPTH = 20

Record = TypeVar("Record")


def is_address(path: str | os.PathLike[str]) -> bool:
    """Tells whether a path is an address, as gs://bucket, of which one slash may be left."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)))


def local_path(name: str, path: str | os.PathLike[str]) -> Path:
    """Makes a path of what the user gave; `~` or `~user` becomes that user's home folder.

    Args:
      name: what the path is, for the error.
      path: as the user gave it.

    Raises:
      UserError: it is an address, or there is no such user or no home folder.
    """
    if is_address(path):
        raise UserError(f"{name}={os.fspath(path)}: is an address; give a path of this machine")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{name}={os.fspath(path)}: there is no such home folder; give the whole path"
        ) from error


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Makes a folder below `parent`, itself made where it is not there, that does not last.

    What is to be there whole is made in it, then put in its place by `move_unless_there`. A signal
    too removes it; what a killed process left is removed by the next one.
    """
    parent.mkdir(parents=True, exist_ok=True)
    locks.remove_abandoned(parent, prefix)
    with (
        interrupts.signals_as_exceptions(),  # else the folder would be left behind
        tempfile.TemporaryDirectory(
            dir=parent, prefix=f"{prefix}{socket.gethostname()}.", ignore_cleanup_errors=True
        ) as folder,
        contextlib.ExitStack() as stack,
    ):
        with contextlib.suppress(OSError):  # a file system without locks
            stack.enter_context(locks.locked_folder(Path(folder)))
        yield Path(folder)


def move_unless_there(source: Path, target: Path) -> None:
    """Renames a folder; where another run was quicker, what that run put there stays."""
    try:
        source.rename(target)
    except OSError:
        if not target.exists():
            raise


@contextlib.contextmanager
def errors_that_name(path: Path) -> Iterator[None]:
    """Makes errors of writing name the file: those of an open one do not, as of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is, at any moment, either the old one or the new one, whole.

    Raises:
      OSError: it cannot be written; names `path`.
    """
    with errors_that_name(path):
        _write_atomically(path, content)


def _write_atomically(path: Path, content: str | bytes) -> None:
    if isinstance(content, str):
        # A file's name may hold bytes that are no text.
        content = content.encode(errors="backslashreplace")
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL_PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically.

    Raises:
      UserError: a number in it is not finite, which JSON cannot hold.
    """
    try:
        content = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise UserError(
            f"{path}: is not written, for a number in it is not finite (nan or infinite): the "
            "model's parameters or outputs are beyond what can be measured; train with a lower "
            "train.learning_rate"
        ) from error
    write_atomically(path, content + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: the file is missing, is not JSON, or is nested too deeply to be of this package.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); the file is damaged") from error
    if _is_deeper_than(_MAX_DEPTH, value):
        raise UserError(f"{path}: is nested more than {_MAX_DEPTH} deep; the file is damaged")
    return value


def _is_deeper_than(depth: int, value: Any) -> bool:
    layer = [value]
    for _ in range(depth):
        holders = (item for item in layer if isinstance(item, dict | list))
        layer = [
            item
            for holder in holders
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
    return bool(layer)


def write_record(path: Path, record: Any) -> None:
    """Writes a dataclass as a JSON file, atomically; fields that are None are left out."""
    write_json(path, _to_json(record))


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: _to_json(item) for name, item in fields if item is not None}
    return value


def read_record(path: Path, record_type: type[Record]) -> Record:
    """Reads a dataclass that `write_record` wrote.

    Raises:
      UserError: the file cannot be read, or does not hold exactly the dataclass's fields.
    """
    return to_record(path, read_json(path), record_type)


def to_record(path: Path, value: Any, record_type: type[Record]) -> Record:
    """Makes a dataclass of what the JSON file at `path` holds.

    Raises:
      UserError: it does not hold exactly the dataclass's fields.
    """
    try:
        return dacite.from_dict(record_type, value, dacite.Config(strict=True))
    except (dacite.DaciteError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {error}; the file is damaged") from error
