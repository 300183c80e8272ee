"""The decoded images of a folder, in a file that only grows, with a journal of its content.

`pixels.bin` holds the pixels of one image after another, `images.jsonl` a line for each: a CRC-32
of the rest of the line, then the file's name and its entry as JSON. The journal counts up to its
first damaged line, so a killed process leaves a valid store, which the next one continues. The last
line of a name counts.
"""

import json
import math
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from vae_jax.datasets import cache, image_files
from vae_jax.datasets.image_folder import ImageFolder
from vae_jax.datasets.images import check_levels
from vae_jax.datasets.stored_images import StoredImages
from vae_jax.datasets.structs import DataOptions
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.locks import locked_folder

_PIXELS, _JOURNAL = "pixels.bin", "images.jsonl"
# To be raised whenever the same file would be decoded or converted to other values.
_VERSION = 5


class _Entry(NamedTuple):
    """A line of the journal."""

    fingerprint: list[int]  # of the image file
    offset: int  # of the pixels, in bytes
    checksum: int  # CRC-32 of the pixels
    shape: Sequence[int]  # height, width and channels
    highest: int  # and `white`: see `ReadImage`
    white: int

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape)


class _Journal(NamedTuple):
    """The valid part of a store."""

    entries: dict[str, _Entry]  # by the file's name
    num_bytes: int = 0  # of the journal's valid lines
    end: int = 0  # of the pixels that the journal lists


def load(folder: ImageFolder, options: DataOptions) -> tuple[StoredImages, list[int]]:
    """Returns the images of a folder, and the index of each one's file; decodes new files alone.

    Raises:
      UserError: an image cannot be decoded, none can, two differ in size, all are nearly black and
        `options.levels` is 0, or they cannot be written.
    """
    store = images_folder(folder.path, options)
    fingerprints = [cache.fingerprint(path) for path in folder.paths]
    with cache.errors_of_writing(store):
        store.mkdir(parents=True, exist_ok=True)
        with locked_folder(store):
            journal = _read_journal(store)
            known = map(journal.entries.get, folder.files)
            entries = [
                entry if entry and entry.fingerprint == fingerprint else None
                for entry, fingerprint in zip(known, fingerprints, strict=True)
            ]
            damaged = []
            if None in entries:
                damaged = _decode_missing(store, folder, options, fingerprints, journal, entries)
    rows = [row for row, entry in enumerate(entries) if entry]
    used = [entry for entry in entries if entry]
    if damaged:
        problem = f"{len(damaged)} of {len(entries)} images cannot be read, as {damaged[0]}"
        if not used:
            raise UserError(f"{folder.path}: {problem}")
        print(f"{folder.path!r}: {problem}; they are left out", file=sys.stderr)
    if not options.levels:
        brightest = max(used, key=lambda entry: entry.highest / entry.white)
        check_levels(brightest.highest, brightest.white, folder.path)
    return _stored_images(store, used), rows


def images_folder(path: str, options: DataOptions) -> Path:
    """Returns the folder for the images of a path, as the options bring them to one form."""
    form = options.image_size, options.channels, options.levels
    name = cache.digest([path, form, _VERSION, PIL.__version__])
    return cache.cache_folder(options.data_dir) / f"images-{name}"


def damage_advice(store: Path) -> str:
    """Returns what to do if the images in a cached folder are damaged."""
    return f"delete the folder {str(store)!r}, it is made again"


def _read_journal(store: Path) -> _Journal:
    """Reads the journal up to its first line that is damaged or whose pixels are missing."""
    entries, num_bytes, end = {}, 0, 0
    try:
        size = os.path.getsize(store / _PIXELS)
        with open(store / _JOURNAL, "rb") as file:
            for line in file:
                content = line[9:]
                if line[:9] != _checksum(content) or not line.endswith(b"\n"):
                    break
                name, *fields = json.loads(content)
                entry = _Entry(*fields)
                if entry.end > size:
                    break
                entries[name] = entry
                num_bytes, end = num_bytes + len(line), max(end, entry.end)
    except (FileNotFoundError, NotADirectoryError):
        return _Journal({})
    return _Journal(entries, num_bytes, end)


def _checksum(content: bytes) -> bytes:
    return b"%08x " % zlib.crc32(content)


def _decode_missing(
    store: Path,
    folder: ImageFolder,
    options: DataOptions,
    fingerprints: Sequence[list[int]],
    journal: _Journal,
    entries: list[_Entry | None],
) -> list[str]:
    """Decodes the files without an entry, appends them to the store and sets their entries.

    Returns the path and error of each file that cannot be read.
    """
    paths, end, damaged = folder.paths, journal.end, []
    missing = [index for index, entry in enumerate(entries) if entry is None]
    known = zip(paths, entries, strict=True)
    first = next(((path, entry.shape) for path, entry in known if entry), None)
    images = image_files.map_on_cores(lambda i: image_files.try_read(paths[i], options), missing)
    with (
        open(store / _PIXELS, "ab") as pixels_file,
        open(store / _JOURNAL, "ab") as journal_file,
        image_files.progress_bar(len(paths), len(paths) - len(missing)) as bar,
    ):
        pixels_file.truncate(end)
        journal_file.truncate(journal.num_bytes)
        for index, (pixels, highest, white, error) in zip(missing, images, strict=True):
            bar.update()
            if error:
                damaged.append(f"{paths[index]}: {error}")
                if not options.skip_damaged:
                    raise UserError(
                        f"{damaged[0]}; repair or remove the file, or leave out all such files "
                        "with --config.data.skip_damaged=True"
                    )
                continue
            first = first or (paths[index], pixels.shape)
            if pixels.shape[:2] != tuple(first[1][:2]):
                raise UserError(
                    f"images differ in size (height, width): {first[0]} {first[1][:2]}, "
                    f"{paths[index]} {pixels.shape[:2]}; give the size to bring them to, as "
                    '--config.data.image_size="(64, 64)"'
                )
            checksum = zlib.crc32(pixels.data)
            entry = _Entry(fingerprints[index], end, checksum, pixels.shape, highest, white)
            # Pixels first: the journal lists no pixels that are not in the file.
            pixels_file.write(pixels.data)
            pixels_file.flush()
            content = json.dumps([folder.files[index], *entry]).encode() + b"\n"
            journal_file.write(_checksum(content) + content)
            journal_file.flush()
            entries[index], end = entry, entry.end
    return damaged


def _stored_images(store: Path, entries: Sequence[_Entry]) -> StoredImages:
    height, width, _ = entries[0].shape
    channels = np.array([entry.shape[2] for entry in entries])
    return StoredImages(
        path=str(store / _PIXELS),
        image_shape=(height, width, int(channels.max())),
        offsets=np.array([entry.offset for entry in entries], np.int64),
        checksums=np.array([entry.checksum for entry in entries], np.uint32),
        is_gray=channels == 1,
        advice=damage_advice(store),
    )
