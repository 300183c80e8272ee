"""The decoded images of a folder, kept on disk for the next start.

They lie in `<data folder>/vae_jax_images/<source>-<files>`: `source` is the folder and what images
are brought to, `files` each file's name, size, times, inode, and first and last 4 KiB. When files
have changed, what was kept of the same source is removed.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import sys
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL

from vae_jax.datasets import image_files
from vae_jax.datasets.image_files import Decoded
from vae_jax.datasets.image_folder import ImageFolder
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import move_unless_there, read_json, scratch_folder, write_json

FOLDER_NAME = "vae_jax_images"
# To be raised whenever the same file would be decoded to other values.
_VERSION = 2

_IMAGES, _RECORD = "images.npy", "record.json"


class _DamagedError(Exception):
    """Kept images that cannot be read, or are not what was put there; says why."""


def load(
    folder: ImageFolder,
    data_folder: pathlib.Path,
    image_size: Sequence[int],
    channels: int,
    skip_damaged: bool,
    levels: int = 0,
) -> Decoded:
    """Returns the decoded images of a folder: those kept, or else decoded now and kept.

    Args:
      folder: the files.
      data_folder: where images are kept.
      image_size: as `image_files.decode` takes it, like what follows.
      channels: likewise.
      skip_damaged: likewise.
      levels: likewise.

    Raises:
      UserError: the images cannot be decoded, or not be written.
    """
    fitted = (image_size, channels, skip_damaged, levels)
    settings = (folder.path, *fitted, _VERSION, PIL.__version__)
    files = [(name, *_fingerprint(folder.path_of(i))) for i, name in enumerate(folder.files)]
    kept = data_folder / FOLDER_NAME / f"{_digest(settings)}-{_digest(files)}"
    if os.path.exists(kept):
        try:
            return _read(kept)
        except _DamagedError as damage:
            line = f"{str(kept)!r}: the decoded images are damaged ({damage}); decoding again"
            print(line, file=sys.stderr)
    try:
        with scratch_folder(kept.parent, ".decoding.") as scratch:
            decoded = image_files.decode(folder, *fitted)
            _put(decoded, kept, scratch)
    except OSError as error:
        raise UserError(
            f"cannot write decoded images to {kept} ({error.strerror or type(error).__name__}); "
            "give a folder that can be written to with --config.data.data_dir=FOLDER"
        ) from error
    return decoded


def _fingerprint(path: str) -> tuple[int, ...]:
    """Returns what tells that a file has changed: its times alone miss a swap of two files."""
    try:
        with open(path, "rb", buffering=0) as file:
            status, first = os.fstat(file.fileno()), file.read(4096)
            file.seek(max(0, status.st_size - 4096))
            checksum = zlib.crc32(first + file.read(4096))
    except OSError:  # decoding says so
        return ()
    return checksum, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _digest(value: Any) -> str:
    # As JSON, which escapes what is no text in a name.
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _read(kept: pathlib.Path) -> Decoded:
    """Reads kept images.

    Raises:
      _DamagedError: they cannot be read, or their SHA-256 is not the one recorded.
    """
    try:
        record = read_json(kept / _RECORD)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy, about a damaged header
            with (kept / _IMAGES).open("rb") as file:
                # Of the one version that was written: others' headers may promise any length.
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError("another version")
                file.seek(0)
                images = np.load(file, allow_pickle=False)
        left_out = {int(index): str(why) for index, why in record["left_out"].items()}
        recorded, note = record["sha256"], str(record["note"])
    except Exception as error:  # damage shows as almost any exception
        raise _DamagedError(type(error).__name__) from error
    if images.dtype != np.uint8 or _sha256(images, left_out) != recorded:
        raise _DamagedError("their SHA-256 is not the one recorded")
    return Decoded(images, left_out, note)


def _sha256(images: np.ndarray, left_out: dict[int, str]) -> str:
    digest = hashlib.sha256(json.dumps([images.dtype.str, images.shape, [*left_out]]).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def _put(decoded: Decoded, kept: pathlib.Path, scratch: pathlib.Path) -> None:
    """Writes images under `scratch` and moves them to their place with one renaming."""
    complete = scratch / "complete"
    complete.mkdir()
    np.save(complete / _IMAGES, decoded.images)
    sha256 = _sha256(decoded.images, decoded.left_out)
    record = {"sha256": sha256, "left_out": decoded.left_out, "note": decoded.note}
    write_json(complete / _RECORD, record)
    source = kept.name.partition("-")[0]
    for index, outdated in enumerate(kept.parent.glob(f"{source}-*")):
        with contextlib.suppress(FileNotFoundError):  # another run was quicker
            outdated.rename(scratch / f"outdated{index}")
    move_unless_there(complete, kept)
