"""Arrays in `.npy` files and in the members of `.npz` files, read a block of rows at a time."""

import contextlib
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from vae_jax.runtime.errors import UserError

_BLOCK_BYTES, _FORTRAN_BLOCK_BYTES = 1 << 20, 64 << 20
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class ArrayFile(NamedTuple):
    """An array of numbers in a file: `shape` and `dtype` of the array, and where it lies."""

    path: str
    member: str  # of the archive at `path`; "" if the file itself holds the array
    offset: int  # of the first number, in bytes
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool  # the first axis varies fastest

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields the rows in order, in arrays of about 1 MiB.

        Raises:
          UserError: the file cannot be read or is damaged.
        """
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        num_bytes = _FORTRAN_BLOCK_BYTES if self.is_fortran else _BLOCK_BYTES
        size, piece = (max(1, each // row_bytes) for each in (num_bytes, _BLOCK_BYTES))
        with contextlib.ExitStack() as stack:
            stack.enter_context(damage_as_user_error(self.path))
            file = stack.enter_context(_open(self.path, self.member))[0]
            if self.is_fortran and self.member:  # seeking back would decompress again
                unpacked = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(file, unpacked)
                file = unpacked
            file.seek(self.offset)
            for start in range(0, self.shape[0], size):
                rows = self._read(file, start, min(size, self.shape[0] - start))
                yield from (rows[row : row + piece] for row in range(0, len(rows), piece))

    def _read(self, file: IO[bytes], start: int, count: int) -> np.ndarray:
        row_shape = self.shape[1:]
        if not self.is_fortran:
            return _fill(file, np.empty((count, *row_shape), self.dtype))
        columns = np.empty((math.prod(row_shape), count), self.dtype)
        for number, column in enumerate(columns):
            file.seek(self.offset + (number * self.shape[0] + start) * self.dtype.itemsize)
            _fill(file, column)
        return columns.reshape(*reversed(row_shape), count).T


def open_array(path: str, member: str = "") -> ArrayFile:
    """Reads the header of an `.npy` file or of a member of an `.npz`; raises if it is damaged."""
    with _open(path, member) as (file, num_bytes):
        version = np.lib.format.read_magic(file)
        if version not in _READ_HEADER:
            raise ValueError(f"version {version} of the format")
        shape, is_fortran, dtype = _READ_HEADER[version](file)
        array = ArrayFile(path, member, file.tell(), shape, dtype, is_fortran)
    if dtype.hasobject:
        raise ValueError("Object arrays are not read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > num_bytes - array.offset:
        raise ValueError(f"it is too short for an array of the shape {shape}")
    return array


@contextlib.contextmanager
def damage_as_user_error(path: str) -> Iterator[None]:
    """Turns any error of reading a file, but too little memory, into UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damage shows as almost any exception of zipfile's and NumPy's
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"{path}: cannot be read, is damaged, or holds no array of numbers ({reason})"
        ) from error


@contextlib.contextmanager
def _open(path: str, member: str) -> Iterator[tuple[IO[bytes], int]]:
    """Opens a file or a member of an archive; gives its size too."""
    with contextlib.ExitStack() as stack:
        if member:
            archive = stack.enter_context(zipfile.ZipFile(path))
            yield stack.enter_context(archive.open(member)), archive.getinfo(member).file_size
        else:
            file = stack.enter_context(open(path, "rb"))
            num_bytes = file.seek(0, 2)
            file.seek(0)
            yield file, num_bytes


def _fill(file: IO[bytes], array: np.ndarray) -> np.ndarray:
    content = array.reshape(-1).view(np.uint8)
    if file.readinto(content.data) < content.size:  # type: ignore[attr-defined]
        raise ValueError("it ends too early")
    return array
