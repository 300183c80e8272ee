"""MNIST, Fashion-MNIST and KMNIST: four official files each, stored by TensorFlow Datasets."""

import contextlib
import functools
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from vae_jax.datasets import cache, idx
from vae_jax.datasets.structs import Split
from vae_jax.runtime.errors import UserError

# Images and labels of each split: all three data sets give their files these names.
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
FILE_NAMES = (*FILES["train"], *FILES["test"])

# The SHA-256 of the decompressed files. Those of KMNIST are not published.
CONTENT_SHA256 = {
    "mnist": {
        FILE_NAMES[0]: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        FILE_NAMES[1]: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        FILE_NAMES[2]: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        FILE_NAMES[3]: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        FILE_NAMES[0]: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        FILE_NAMES[1]: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        FILE_NAMES[2]: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        FILE_NAMES[3]: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "kmnist": {},
}


def load(name: str, folder: Path, manual_dir: Path | None) -> dict[str, Split]:
    """Returns the splits "train" and "test" of an official data set, in the official order.

    The data are stored in a cache first, from the four official files in `manual_dir`, compressed
    or not, or else from the official addresses.
    """

    def make(scratch: Path) -> Path:
        if manual_dir:
            files = _find(manual_dir)
        else:
            files = _download(name, folder / name, scratch / "downloads")
        return _store(_read_official(name, files), scratch)

    return cache.read_or_make(folder / name, str(VaeJaxMnist.VERSION), make, _read_stored)


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


def _read_stored(folder: Path) -> dict[str, Split]:
    sources = tfds.builder_from_directory(folder).as_data_source()
    examples = {name: sources[name][0] for name in FILES}
    return {
        name: Split(example["image"][..., np.newaxis], example["label"])
        for name, example in examples.items()
    }


def registered(name: str) -> dict[str, checksums.UrlInfo]:
    """Returns the name, size and SHA-256 of each of the four `.gz` files, by its address."""
    return checksums.load_url_infos(tfds.core.tfds_path("url_checksums", f"{name}.txt"))


def _find(folder: Path) -> dict[str, Path]:
    """Returns the path of each official file; in its name ".idx" may stand for "-idx"."""
    paths = {}
    for official in FILE_NAMES:
        pattern = official.removesuffix(".gz").replace("-idx", "[-.]idx")
        matches = [path for end in (".gz", "") for path in folder.glob(pattern + end)]
        if not matches:
            raise UserError(
                f"{official} is missing in data.manual_dir={folder}; put the official file there, "
                "compressed or not"
            )
        paths[official] = matches[0]
    return paths


def _download(name: str, target: Path, folder: Path) -> dict[str, Path]:
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
            f"{target} holds no valid data, and downloading from {os.path.dirname(first)} failed "
            f"({type(error).__name__}); give a folder with the files {', '.join(FILE_NAMES)} as "
            "--config.data.manual_dir=FOLDER, a folder with valid data as "
            "--config.data.data_dir=FOLDER, or use --config.data.name=mnist_5k, 5,000 MNIST digits "
            "that need no download"
        ) from error
    return {file_name: Path(path) for file_name, path in paths.items()}


def _read_official(name: str, paths: Mapping[str, Path]) -> dict[str, Split]:
    """Reads the four files; refuses one if neither it nor its content has an official SHA-256."""
    official = {info.filename: {info.checksum} for info in registered(name).values()}
    arrays = {}
    for file_name, path in paths.items():
        content = idx.read_content(path)
        sha256 = [hashlib.sha256(data).hexdigest() for data in (content, path.read_bytes())]
        expected = official[file_name] | {CONTENT_SHA256[name].get(file_name)}
        if expected.isdisjoint(sha256):
            raise UserError(
                f"{path}: is not the official {file_name} of {name} (its SHA-256 is {sha256[1]}); "
                "download it again"
            )
        arrays[file_name] = idx.parse(content)
    return {
        split: Split(arrays[images][..., np.newaxis], arrays[labels])
        for split, (images, labels) in FILES.items()
    }
