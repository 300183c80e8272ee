"""A small data set in the official format, and a stand-in for its registered checksums."""

import gzip
import hashlib
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest

from vae_jax.datasets import official

UNRESOLVABLE = "http://files.invalid/"


class SmallFiles:
    """A folder with the four files of a small data set, registered under `address`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = UNRESOLVABLE
        generator = np.random.RandomState(0)
        self.arrays = {}
        for size, names in ((70, official.FILES["train"]), (30, official.FILES["test"])):
            for name, shape, end in zip(names, [(size, 28, 28), (size,)], (256, 10), strict=True):
                self.arrays[name] = generator.randint(0, end, shape).astype(np.uint8)
        folder.mkdir()
        for name, array in self.arrays.items():
            header = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape)
            (folder / name).write_bytes(gzip.compress(header + array.tobytes(), mtime=0))
        self.contents = {name: (folder / name).read_bytes() for name in self.arrays}

    def registered(self, name: str) -> dict[str, official.checksums.UrlInfo]:
        """Stands in for `official.registered`."""
        return {
            self.address + file_name: official.checksums.UrlInfo(
                len(content), hashlib.sha256(content).hexdigest(), file_name
            )
            for file_name, content in self.contents.items()
        }


@pytest.fixture
def small_files(tmp_path, monkeypatch):
    # TensorFlow Datasets leaves an empty temporary folder behind for every unprepared builder.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = SmallFiles(tmp_path / "official")
    monkeypatch.setattr(official, "registered", files.registered)
    return files
