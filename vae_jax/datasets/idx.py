"""IDX files, gzipped or not: the format of MNIST and its relatives."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from vae_jax.runtime.errors import UserError


def read_content(path: Path) -> bytes:
    """Returns the bytes of an IDX file, decompressed.

    Raises:
      UserError: the file cannot be read, or is truncated or damaged.
    """
    try:
        content = path.read_bytes()
        # By its first bytes, not its name: browsers decompress files and keep their names.
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); download it again") from error


def parse(content: bytes) -> np.ndarray:
    """Returns the array of a valid IDX file: `<uint8>[n, height, width]`, or labels `<uint8>[n]`.

    The file is a big-endian header (a magic number, whose last byte is the number of axes, then one
    32-bit length for each axis) followed by one byte for each value.
    """
    num_axes = content[3]
    shape = struct.unpack_from(f">{num_axes}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
