"""MNIST, Fashion-MNIST and KMNIST: four official files each, stored by TensorFlow Datasets."""

import contextlib
import functools
import gzip
import hashlib
import io
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from vae_jax.datasets import cache
from vae_jax.datasets.structs import Split
from vae_jax.runtime.errors import UserError

# Images and labels of each split: all three data sets give their files these names.
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
FILE_NAMES = (*FILES["train"], *FILES["test"])


def load(name: str, folder: Path, manual_dir: Path | None) -> dict[str, Split]:
    """Returns the splits "train" and "test" of an official data set, in the official order.

    The data are stored in a cache first, from the four official files in `manual_dir`, or else from
    the official addresses.
    """

    def make(made: Path) -> None:
        if manual_dir:
            files = {file_name: manual_dir / file_name for file_name in FILE_NAMES}
        else:
            files = _download(name, made.parent / "downloads")
        for path in _store(_read_official(name, files), made.parent).iterdir():
            path.rename(made / path.name)

    made = cache.make_once(folder / name, str(VaeJaxMnist.VERSION), make)
    sources = tfds.builder_from_directory(made).as_data_source()
    examples = {split: sources[split][0] for split in FILES}
    return {
        split: Split(example["image"][..., np.newaxis], example["label"])
        for split, example in examples.items()
    }


class VaeJaxMnist(tfds.core.GeneratorBasedBuilder):
    """Stores the splits of an official data set, without TensorFlow.

    A split is one example, which is read 35 times as fast as one example for each image: `image`,
    `<uint8>[n, 28, 28]`, and `label`, `<uint8>[n]`, in the official order.
    """

    VERSION = tfds.core.Version("1.2.0")
    official: Mapping[str, Split]  # the splits to store

    def _info(self) -> tfds.core.DatasetInfo:
        # Encoding.BYTES: without it each pixel is stored as a 64-bit integer. Tensor and not
        # Image: Image needs TensorFlow to encode.
        tensor = functools.partial(
            tfds.features.Tensor, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        features = {"image": tensor(shape=(None, 28, 28)), "label": tensor(shape=(None,))}
        return tfds.core.DatasetInfo(
            builder=self,
            description="28x28 gray images in ten classes, a split as one example.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {name: self._generate_examples(split) for name, split in self.official.items()}

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        yield 0, {"image": split.images[..., 0], "label": split.labels}


def _store(splits: Mapping[str, Split], folder: Path) -> Path:
    """Stores splits below a folder; returns the folder of the stored files."""
    builder = VaeJaxMnist(data_dir=folder, file_format="array_record")
    builder.official = splits
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except Exception as error:  # the native writer's, of a full disk among others
        raise OSError(str(error)) from error
    return Path(builder.data_path)


def registered(name: str) -> dict[str, checksums.UrlInfo]:
    """Returns the name, size and SHA-256 of each of the four `.gz` files, by its address."""
    return checksums.load_url_infos(tfds.core.tfds_path("url_checksums", f"{name}.txt"))


def _download(name: str, folder: Path) -> dict[str, Path]:
    """Downloads the four files into a folder; returns their paths."""
    url_infos = registered(name)
    first = next(iter(url_infos))
    try:
        # TensorFlow Datasets alone tries for over 200 s before it reports a missing network.
        with requests.get(first, stream=True, timeout=10) as response:
            response.raise_for_status()
        manager = tfds.download.DownloadManager(download_dir=folder, url_infos=url_infos)
        paths = manager.download({info.filename: url for url, info in url_infos.items()})
    except (
        requests.RequestException,
        tfds.download.DownloadError,
        NonMatchingChecksumError,
    ) as error:
        raise UserError(
            f"downloading {name} from {os.path.dirname(first)} failed ({type(error).__name__}); "
            f"give a folder with the files {', '.join(FILE_NAMES)} as "
            "--config.data.manual_dir=FOLDER, or use --config.data.name=mnist_5k, 5,000 MNIST "
            "digits that need no download"
        ) from error
    return {file_name: Path(path) for file_name, path in paths.items()}


def _read_official(name: str, paths: Mapping[str, Path]) -> dict[str, Split]:
    """Reads the four files; refuses one whose SHA-256 is not the official one."""
    official = {info.filename: info.checksum for info in registered(name).values()}
    arrays = {}
    for file_name, path in paths.items():
        if not path.exists():
            raise UserError(f"{path} is missing; put the official file there")
        content = path.read_bytes()
        if (sha256 := hashlib.sha256(content).hexdigest()) != official[file_name]:
            raise UserError(
                f"{path}: is not the official {file_name} of {name} (its SHA-256 is {sha256}); "
                "download it again"
            )
        arrays[file_name] = _parse(gzip.decompress(content))
    return {
        split: Split(arrays[images][..., np.newaxis], arrays[labels])
        for split, (images, labels) in FILES.items()
    }


def _parse(content: bytes) -> np.ndarray:
    """Returns the array of an IDX file: `<uint8>[n, height, width]`, or labels `<uint8>[n]`.

    The file is a big-endian header (a magic number, whose last byte is the number of axes, then one
    32-bit length for each axis) followed by one byte for each value.
    """
    num_axes = content[3]
    shape = struct.unpack_from(f">{num_axes}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
