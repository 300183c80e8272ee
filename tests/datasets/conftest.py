"""Small data sets in the official format, and a stand-in for their registered checksums."""

import gzip
import hashlib
import pathlib
import struct
import tempfile

import numpy as np
import pytest

from vae_jax.datasets import official_files

IMAGES_MAGIC = 2051
LABELS_MAGIC = 2049
SIZES = {"train": 70, "t10k": 30}
UNRESOLVABLE = "http://files.invalid/"


def idx_bytes(array: np.ndarray, magic: int) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def make_arrays() -> dict[str, np.ndarray]:
    """The contents of the four files, by file name."""
    generator = np.random.RandomState(0)
    arrays = {}
    for prefix, size in SIZES.items():
        images = generator.randint(0, 256, size=(size, 28, 28)).astype(np.uint8)
        labels = generator.randint(0, 10, size=size).astype(np.uint8)
        arrays[f"{prefix}-images-idx3-ubyte.gz"] = images
        arrays[f"{prefix}-labels-idx1-ubyte.gz"] = labels
    return arrays


class SmallFiles:
    """A folder with the four files of a small data set, registered under `address`."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.address = UNRESOLVABLE
        self.arrays = make_arrays()
        folder.mkdir()
        for name, array in self.arrays.items():
            magic = IMAGES_MAGIC if array.ndim == 3 else LABELS_MAGIC
            (folder / name).write_bytes(gzip.compress(idx_bytes(array, magic), mtime=0))
        self.contents = {name: (folder / name).read_bytes() for name in self.arrays}

    def registered(self, name: str) -> dict[str, official_files.checksums.UrlInfo]:
        """Stands in for `official_files.registered`: the files as first written."""
        assert name in ("mnist", "fashion_mnist", "kmnist")
        return {
            self.address + file_name: official_files.checksums.UrlInfo(
                size=len(content),
                checksum=hashlib.sha256(content).hexdigest(),
                filename=file_name,
            )
            for file_name, content in self.contents.items()
        }

    def content_sha256(self, name: str) -> dict[str, str]:
        """Stands in for `official_files.content_sha256`; KMNIST's are not known."""
        if name == "kmnist":
            return {}
        return {
            file_name: hashlib.sha256(gzip.decompress(content)).hexdigest()
            for file_name, content in self.contents.items()
        }


@pytest.fixture
def small_files(tmp_path, monkeypatch):
    # TensorFlow Datasets leaves an empty temporary folder behind for every unprepared builder.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = SmallFiles(tmp_path / "official")
    monkeypatch.setattr(official_files, "registered", files.registered)
    monkeypatch.setattr(official_files, "content_sha256", files.content_sha256)
    return files
