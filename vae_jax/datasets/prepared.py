"""The official data sets, prepared once as `array_record` files and read from them after."""

import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from vae_jax.datasets import network, official_files
from vae_jax.datasets.builder import VaeJaxMnist
from vae_jax.datasets.structs import Split, sha256_of
from vae_jax.runtime.errors import UserError, system_reason
from vae_jax.runtime.files import move_unless_there, scratch_folder

# TensorFlow Datasets alone tries for over 200 s before it says that there is no network.
PROBE_SECONDS = 10.0

_UrlInfos = Mapping[str, checksums.UrlInfo]


class _DamagedError(Exception):
    """Prepared data that cannot be read, or are not what was prepared; says why."""


def load(name: str, root: pathlib.Path, manual_dir: str | None) -> dict[str, Split]:
    """Loads an official data set, preparing it first where that has not been done.

    Prepared data that are damaged are said to be on standard error, and prepared again.

    Args:
      name: a builder configuration: "mnist", "fashion_mnist" or "kmnist".
      root: the folder of prepared data.
      manual_dir: a folder that holds the four official files, compressed or not. If set, nothing
        is downloaded.

    Returns:
      The splits "train" and "test", in the official order.

    Raises:
      UserError: the files cannot be had, or are not the official ones; the prepared data cannot
        be written.
    """
    folder = _folder(name, root)
    with _quiet():
        try:
            if folder.exists():
                try:
                    return _read(name, root)
                except _DamagedError as damage:
                    line = f"{folder}: the prepared data are damaged ({damage}); preparing again"
                    print(line, file=sys.stderr)
            return _prepare(name, root, manual_dir)
        except OSError as error:
            raise _not_written(folder, error) from error


def _not_written(folder: pathlib.Path, error: Exception) -> UserError:
    return UserError(
        f"cannot write prepared data to {folder} ({system_reason(error)}); give a folder that can "
        "be written to with --config.data.data_dir=FOLDER"
    )


def _folder(name: str, root: pathlib.Path) -> pathlib.Path:
    """Returns where a data set's prepared data lie."""
    return root / VaeJaxMnist.name / name / str(VaeJaxMnist.VERSION)


def _make_builder(name: str, root: pathlib.Path) -> VaeJaxMnist:
    return VaeJaxMnist(config=name, data_dir=root, file_format="array_record")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what TensorFlow Datasets prints and logs, but errors."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _prepare(name: str, root: pathlib.Path, manual_dir: str | None) -> dict[str, Split]:
    """Prepares the data, from `manual_dir` or else from the official addresses, and reads them.

    They are prepared and read in a folder of their own, and only then put in their place, with one
    renaming: whatever lay there is kept till then, and runs that do the same at the same time do
    not meet.
    """
    folder = _folder(name, root)
    url_infos = official_files.registered(name)
    official = None
    if manual_dir:
        official = official_files.read(name, official_files.find(manual_dir))
    else:
        _check_network(folder, url_infos)
    with scratch_folder(folder.parent, ".preparing.") as scratch:
        builder = _make_builder(name, scratch)
        builder.official = official
        try:
            builder.download_and_prepare(download_dir=scratch / "downloads")
        except (
            requests.RequestException,
            tfds.download.DownloadError,
            NonMatchingChecksumError,
        ) as error:
            raise UserError(_no_data(folder, url_infos, type(error).__name__)) from error
        except (UserError, OSError):
            raise
        except Exception as error:  # the native writer's, of a full disk too
            raise _not_written(folder, error) from error
        try:
            splits = _read(name, scratch)
        except _DamagedError as damage:
            raise UserError(
                f"the data just prepared in {root} are damaged already ({damage}); is the disk in "
                "order? Give another folder with --config.data.data_dir=FOLDER"
            ) from damage
        _put(name, root, scratch)
    return splits


def _put(name: str, root: pathlib.Path, scratch: pathlib.Path) -> None:
    """Moves data prepared under `scratch` to their place under `root`, unless others are there."""
    folder = _folder(name, root)
    if folder.exists():
        try:
            _read(name, root)
        except _DamagedError:
            with contextlib.suppress(FileNotFoundError):  # another run was quicker
                folder.rename(scratch / "damaged")
        else:
            return  # another run has put the same data there in the meantime
    move_unless_there(_folder(name, scratch), folder)


def _check_network(folder: pathlib.Path, url_infos: _UrlInfos) -> None:
    """Raises a UserError unless the official addresses answer."""
    reason = network.why_unreachable(next(iter(url_infos)), PROBE_SECONDS)
    if reason:
        raise UserError(_no_data(folder, url_infos, reason))


def _no_data(folder: pathlib.Path, url_infos: _UrlInfos, reason: str) -> str:
    """Words the error for data that are neither there nor to be had, with the ways out."""
    url = next(iter(url_infos))
    in_data_dir = pathlib.Path(*folder.parts[-3:])
    return (
        f"no usable prepared data in {folder}, and downloading from {os.path.dirname(url)} "
        f"failed ({reason}); three ways out: --config.data.manual_dir=FOLDER with the files "
        f"{', '.join(official_files.FILE_NAMES)}; --config.data.data_dir=FOLDER with prepared data "
        f"in FOLDER/{in_data_dir}; or --config.data.name=mnist_5k, 5,000 MNIST digits that need no "
        "download"
    )


def _read(name: str, root: pathlib.Path) -> dict[str, Split]:
    """Reads the prepared splits that lie under `root`.

    Raises:
      _DamagedError: they cannot be read, or their SHA-256 is not the one recorded.
    """
    try:
        builder = _make_builder(name, root)
        sources = builder.as_data_source()
        splits = {split: _join(sources[split]) for split in official_files.SPLIT_FILES}
        recorded = {split: builder.info.metadata[split] for split in splits}
    # Damage shows as almost any exception, from the JSON, protobuf or array_record reader.
    except Exception as error:
        raise _DamagedError(type(error).__name__) from error
    if {split: sha256_of(arrays) for split, arrays in splits.items()} != recorded:
        raise _DamagedError("their SHA-256 is not the one recorded")
    return splits


def _join(blocks: Any) -> Split:
    records = blocks.__getitems__(range(len(blocks)))
    return Split(
        images=np.concatenate([record["image"] for record in records])[..., np.newaxis],
        labels=np.concatenate([record["label"] for record in records]),
    )
