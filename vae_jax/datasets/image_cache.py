"""The decoded images of a folder, cached as an `.npy` file with a JSON record."""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from vae_jax.datasets import cache, image_files
from vae_jax.datasets.image_files import Decoded
from vae_jax.datasets.image_folder import ImageFolder
from vae_jax.datasets.structs import DataOptions

# To be raised whenever the same file would be decoded to other values.
_VERSION = 3


def load(folder: ImageFolder, options: DataOptions, cache_folder: Path) -> Decoded:
    """Returns the decoded images of a folder, which are decoded again if a file has changed."""

    def make(scratch: Path) -> Path:
        decoded = image_files.decode(folder, options)
        made = scratch / "images"
        made.mkdir()
        np.save(made / "images.npy", decoded.images)
        record = {"rows": decoded.rows, "notes": decoded.notes}
        (made / "record.json").write_text(json.dumps(record))
        return made

    def read(made: Path) -> Decoded:
        record = json.loads((made / "record.json").read_text())
        return Decoded(np.load(made / "images.npy"), record["rows"], record["notes"])

    source = (folder.path, options.image_size, options.channels, options.levels)
    fingerprints = [_fingerprint(path) for path in folder.paths]
    key = _digest([_VERSION, PIL.__version__, folder.files, fingerprints])
    name = f"images-{_digest([*source, options.skip_damaged])}"
    return cache.read_or_make(cache_folder / name, key, make, read)


def _fingerprint(path: str) -> tuple[int, ...]:
    """Returns numbers that change with a file: its times alone miss a swap of two files."""
    try:
        with open(path, "rb", buffering=0) as file:
            status, first = os.fstat(file.fileno()), file.read(4096)
            file.seek(max(0, status.st_size - 4096))
            checksum = zlib.crc32(first + file.read(4096))
    except OSError:  # decoding reports it
        return ()
    return checksum, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _digest(value: Any) -> str:
    # JSON escapes bytes of names that are not UTF-8.
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
