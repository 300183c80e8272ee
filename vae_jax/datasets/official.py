"""MNIST, Fashion-MNIST and KMNIST: four files each, registered by TensorFlow Datasets."""

import gzip
import hashlib
import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.datasets import cache
from vae_jax.datasets.structs import Split
from vae_jax.runtime.errors import UserError

# Images and labels of each split: all three data sets give their files these names.
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
FILE_NAMES = (*FILES["train"], *FILES["test"])
_STORED = "arrays.npz"  # the arrays of the four files, by the files' names
_VERSION = "2"  # to be raised whenever they are stored in another form


def load(name: str, folder: Path, manual_dir: Path | None) -> dict[str, Split]:
    """Returns the splits "train" and "test" of an official data set, in the official order.

    The data are stored in a cache first, from the four official files in `manual_dir`, or else from
    the official addresses.
    """

    def make(made: Path) -> None:
        arrays: Any = _read_official(name, manual_dir)
        np.savez(made / _STORED, **arrays)

    made = cache.make_once(folder / name, _VERSION, make)
    with np.load(made / _STORED) as arrays:
        return {
            split: Split(arrays[images][..., np.newaxis], arrays[labels])
            for split, (images, labels) in FILES.items()
        }


def registered(name: str) -> dict[str, tuple[str, str]]:
    """Returns the address and the SHA-256 of each of the four files, by the file's name."""
    import tensorflow_datasets as tfds  # here: this takes half a second
    from tensorflow_datasets.core.download import checksums

    infos = checksums.load_url_infos(tfds.core.tfds_path("url_checksums", f"{name}.txt"))
    return {info.filename: (address, info.checksum) for address, info in infos.items()}


def _read_official(name: str, manual_dir: Path | None) -> dict[str, np.ndarray]:
    """Reads or downloads the four files; refuses one whose SHA-256 is not the official one."""
    arrays = {}
    for file_name, (address, checksum) in registered(name).items():
        path = manual_dir / file_name if manual_dir else None
        if path and not path.exists():
            raise UserError(f"{path} is missing; put the official file there")
        content = path.read_bytes() if path else _download(name, address)
        if (sha256 := hashlib.sha256(content).hexdigest()) != checksum:
            raise UserError(
                f"{path or address}: is not the official {file_name} of {name} (its SHA-256 is "
                f"{sha256}); download it again"
            )
        arrays[file_name] = _parse(gzip.decompress(content))
    return arrays


def _download(name: str, address: str) -> bytes:
    """Returns the content of a file at an address."""
    import requests

    print(f"downloading {address}", file=sys.stderr)
    try:
        response = requests.get(address, timeout=10)
        response.raise_for_status()
    except requests.RequestException as error:
        raise UserError(
            f"downloading {name} from {os.path.dirname(address)} failed ({type(error).__name__}); "
            f"give a folder with the files {', '.join(FILE_NAMES)} as "
            "--config.data.manual_dir=FOLDER, or use --config.data.name=mnist_5k, 5,000 MNIST "
            "digits that need no download"
        ) from error
    return response.content


def _parse(content: bytes) -> np.ndarray:
    """Returns the array of an IDX file: `<uint8>[n, height, width]`, or labels `<uint8>[n]`.

    The file is a big-endian header (a magic number, whose last byte is the number of axes, then one
    32-bit length for each axis) followed by one byte for each value.
    """
    num_axes = content[3]
    shape = struct.unpack_from(f">{num_axes}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
