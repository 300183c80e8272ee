"""Reading IDX files, gzipped or not, the format of MNIST and its relatives.

An IDX file is a big-endian header (a magic number, then one 32-bit length for each axis) and the
items, one byte a value. Nothing the header promises is believed before it is found in the file:
no buffer is allocated from a promise, and no more is decompressed than the promise, itself bounded.
"""

import gzip
import hashlib
import math
import os
import struct
import zlib
from typing import Protocol

import numpy as np

from vae_jax.runtime.errors import UserError

IMAGE_SHAPE = (28, 28)
NUM_CLASSES = 10
# MNIST, Fashion-MNIST and KMNIST hold 60,000 training images; a header that promises more lies.
MAX_ITEMS = 60_000

_IMAGES_MAGIC = 2051
_LABELS_MAGIC = 2049
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


class Stream(Protocol):
    """Something that bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes, none at the end."""
        ...


def read_images(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file of images: `<uint8>[n, 28, 28]`.

    Raises:
      UserError: the file cannot be read, is truncated or corrupt, is not a file of
        28x28 images, or holds more or fewer images than its header promises.
    """
    return _read(path, _IMAGES_MAGIC, IMAGE_SHAPE, "images")


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file of labels: `<uint8>[n]`, each 0 to 9.

    Raises:
      UserError: the file cannot be read, is truncated or corrupt, is not a file of
        labels, holds more or fewer labels than its header promises, or a label beyond 9.
    """
    labels = _read(path, _LABELS_MAGIC, (), "labels")
    if labels.max() >= NUM_CLASSES:
        row = int(np.argmax(labels >= NUM_CLASSES))
        raise UserError(
            f"{path}: label {row} is {labels[row]}, outside 0 to {NUM_CLASSES - 1}; "
            "replace the file by the official one"
        )
    return labels


def content_sha256(array: np.ndarray) -> str:
    """Returns the SHA-256 of the unpacked file that holds these images or labels."""
    magic = _IMAGES_MAGIC if array.ndim == 3 else _LABELS_MAGIC
    digest = hashlib.sha256(struct.pack(f">{1 + array.ndim}I", magic, *array.shape))
    digest.update(array.data)
    return digest.hexdigest()


def _read(
    path: str | os.PathLike[str], magic: int, item_shape: tuple[int, ...], noun: str
) -> np.ndarray:
    """Reads the items of an IDX file: `<uint8>[n, *item_shape]`."""
    try:
        with open(path, "rb") as file:
            # By its beginning and not by its name: browsers unpack files and keep their names.
            is_gzip = file.peek(2).startswith(_GZIP_MAGIC)
            stream = gzip.GzipFile(fileobj=file) if is_gzip else file
            count = _read_header(stream, path, magic, item_shape, noun)
            size = count * math.prod(item_shape)
            # One byte beyond the promise: it shows a longer file, and at the end of a good one it
            # makes gzip compare its checksum.
            data = read_at_most(stream, size + 1)
    except EOFError:
        raise UserError(f"{path}: the gzip file is truncated; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a valid gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) != size:
        held = "more" if len(data) > size else f"only {len(data)}"
        raise UserError(
            f"{path}: the header promises {count} {noun} ({size} bytes), the file holds {held}; "
            "fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(count, *item_shape)


def _read_header(
    stream: Stream,
    path: str | os.PathLike[str],
    magic: int,
    item_shape: tuple[int, ...],
    noun: str,
) -> int:
    """Reads and checks an IDX header; returns the number of items it promises."""
    header = struct.Struct(f">{2 + len(item_shape)}I")
    data = read_at_most(stream, header.size)
    if len(data) < header.size:
        raise UserError(
            f"{path}: holds {len(data)} bytes, too few for the {header.size}-byte header of a "
            f"file of {noun}; fetch it again"
        )
    found_magic, count, *found_shape = header.unpack(data)
    if found_magic != magic:
        raise UserError(
            f"{path}: starts with the magic number {found_magic}, but a file of {noun} starts "
            f"with {magic}; are the files mixed up?"
        )
    if tuple(found_shape) != item_shape:
        raise UserError(
            f"{path}: holds images of {'x'.join(map(str, found_shape))} pixels, not "
            f"{'x'.join(map(str, item_shape))}; give files of the MNIST format"
        )
    if not 1 <= count <= MAX_ITEMS:
        raise UserError(
            f"{path}: the header promises {count} {noun}, not between 1 and {MAX_ITEMS}; "
            "replace the file by the official one"
        )
    return count


def read_at_most(stream: Stream, size: int) -> bytearray:
    """Reads up to `size` bytes, growing with what arrives rather than with what is asked."""
    data = bytearray()
    while len(data) < size:
        chunk = stream.read(min(_CHUNK_BYTES, size - len(data)))
        if not chunk:
            break
        data += chunk
    return data
