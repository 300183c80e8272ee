"""The official data sets, prepared once as `array_record` files and read from them after."""

import contextlib
import io
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from vae_jax.datasets import network, official_files
from vae_jax.datasets.builder import VaeJaxMnist
from vae_jax.datasets.structs import Split
from vae_jax.errors import UserError

# TensorFlow Datasets alone tries for over 200 s before it says that there is no network.
PROBE_SECONDS = 10.0


def load(name: str, data_dir: str | None, manual_dir: str | None) -> dict[str, Split]:
    """Loads an official data set, preparing it first where that has not been done.

    Args:
      name: a builder configuration: "mnist", "fashion_mnist" or "kmnist".
      data_dir: where prepared data lie; None for TensorFlow Datasets' own default.
      manual_dir: a folder that holds the four official files. If set, nothing is downloaded.

    Returns:
      The splits "train" and "test", in the official order.

    Raises:
      UserError: the files cannot be had, or are not the official ones; the prepared data cannot
        be written or read.
    """
    with _quiet():
        builder = _make_builder(name, data_dir)
        try:
            prepared = builder.data_path.exists()
            if not prepared:
                _prepare(builder, manual_dir)
        except OSError as error:
            raise UserError(
                f"cannot write prepared data to {builder.data_path} "
                f"({error.strerror or type(error).__name__}); give a folder that can be written "
                "to with --config.data.data_dir=FOLDER"
            ) from error
        # Made anew: a builder knows of the prepared data what it found when it was made.
        return _read(builder if prepared else _make_builder(name, data_dir))


def _make_builder(name: str, data_dir: str | None) -> VaeJaxMnist:
    try:
        return VaeJaxMnist(config=name, data_dir=data_dir, file_format="array_record")
    # A builder reads the description of the prepared data, if there is one, when it is made.
    except Exception as error:
        raise UserError(
            f"cannot read the prepared data in {data_dir or 'the default data folder'}"
            f"/{VaeJaxMnist.name}/{name} ({type(error).__name__}); delete that folder, or give "
            "another with --config.data.data_dir=FOLDER"
        ) from error


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


def _prepare(builder: VaeJaxMnist, manual_dir: str | None) -> None:
    """Writes the prepared data, from `manual_dir` or else from the official addresses."""
    if manual_dir:
        _check_manual_dir(manual_dir, builder)
    else:
        _check_network(builder)
    # Downloads go to a temporary folder: once prepared, they are not needed again.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as download_dir:
        try:
            builder.download_and_prepare(
                download_dir=download_dir,
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
            )
        except (
            requests.RequestException,
            tfds.download.DownloadError,
            NonMatchingChecksumError,
        ) as error:
            raise UserError(_no_data(builder, type(error).__name__)) from error
        except OSError:
            # Another run may have prepared the same data in the meantime.
            if not builder.data_path.exists():
                raise


def _check_manual_dir(manual_dir: str, builder: VaeJaxMnist) -> None:
    """Raises a UserError unless `manual_dir` holds the four official files.

    TensorFlow Datasets would download a missing file, and of a truncated one it would say no more
    than that its checksum is wrong.
    """
    folder = pathlib.Path(manual_dir)
    if not folder.is_dir():
        raise UserError(
            f"data.manual_dir={manual_dir} is not a folder; give the folder that holds "
            f"{', '.join(official_files.FILE_NAMES)}"
        )
    for file_name in official_files.FILE_NAMES:
        if not (folder / file_name).is_file():
            raise UserError(
                f"{file_name} is missing in data.manual_dir={manual_dir}; put the official file "
                "there, under this name (nothing is downloaded while data.manual_dir is set)"
            )
    paths = {file_name: folder / file_name for file_name in official_files.FILE_NAMES}
    official_files.read(paths, builder.url_infos)


def _check_network(builder: VaeJaxMnist) -> None:
    """Raises a UserError unless the official addresses answer."""
    url = next(iter(builder.url_infos))
    reason = network.why_unreachable(url, PROBE_SECONDS)
    if reason:
        raise UserError(_no_data(builder, reason))


def _no_data(builder: VaeJaxMnist, reason: str) -> str:
    """The message for data that are neither there nor to be had, with the ways out."""
    folder = builder.data_path.relative_to(builder.data_dir_root)
    url = next(iter(builder.url_infos))
    return (
        f"no prepared data in {builder.data_path}, and downloading from {os.path.dirname(url)} "
        f"failed ({reason}); three ways out: --config.data.manual_dir=FOLDER with the files "
        f"{', '.join(official_files.FILE_NAMES)}; --config.data.data_dir=FOLDER with prepared data "
        f"in FOLDER/{folder}; or --config.data.name=mnist_5k, 5,000 MNIST digits that need no "
        "download"
    )


def _read(builder: VaeJaxMnist) -> dict[str, Split]:
    """Reads the prepared splits."""
    try:
        sources = builder.as_data_source()
        splits = {name: _join(sources[name]) for name in official_files.SPLIT_FILES}
    # Damage shows as almost any exception, from the JSON, protobuf or array_record reader.
    except Exception as error:
        raise UserError(
            f"the prepared data in {builder.data_path} are damaged ({type(error).__name__}); "
            "delete that folder and run again to prepare them anew"
        ) from error
    return splits


def _join(blocks: Sequence[Any]) -> Split:
    records = blocks.__getitems__(range(len(blocks)))
    return Split(
        images=np.concatenate([record["image"] for record in records]),
        labels=np.concatenate([record["label"] for record in records]),
    )
