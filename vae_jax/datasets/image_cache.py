"""The decoded images of a folder, in a file that only grows, with a journal of its content.

`pixels.bin` holds the pixels of one image after another, `images.jsonl` a line of JSON for each:
the file's name and its entry. The last line of a name counts. A line that is damaged, or whose
pixels are missing, is as if it were not there, so the next process continues the store of a killed
one.
"""

import contextlib
import json
import math
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
_VERSION = 6


class _Entry(NamedTuple):
    """A line of the journal."""

    fingerprint: list[int]  # of the image file
    offset: int  # of the pixels, in bytes
    checksum: int  # CRC-32 of the pixels
    shape: tuple[int, int, int]  # height, width and channels
    highest: int  # and `white`: see `ReadImage`
    white: int


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
            known = map(_read_journal(store).get, folder.files)
            entries = [
                entry if entry and entry.fingerprint == fingerprint else None
                for entry, fingerprint in zip(known, fingerprints, strict=True)
            ]
            damaged = _decode_missing(store, folder, options, fingerprints, entries)
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
    channels = np.array([entry.shape[2] for entry in used])
    images = StoredImages(
        path=str(store / _PIXELS),
        image_shape=(*used[0].shape[:2], int(channels.max())),
        offsets=np.array([entry.offset for entry in used], np.int64),
        checksums=np.array([entry.checksum for entry in used], np.uint32),
        is_gray=channels == 1,
        advice=f"delete the folder {str(store)!r}, it is made again",
    )
    return images, rows


def images_folder(path: str, options: DataOptions) -> Path:
    """Returns the folder for the images of a path, as the options bring them to one form."""
    form = options.image_size, options.channels, options.levels
    name = cache.digest([path, form, _VERSION, PIL.__version__])
    return cache.cache_folder(options.data_dir) / f"images-{name}"


def _read_journal(store: Path) -> dict[str, _Entry]:
    """Returns the valid lines of the journal, by the file's name."""
    if not (store / _JOURNAL).exists() or not (store / _PIXELS).exists():
        return {}
    entries, size = {}, (store / _PIXELS).stat().st_size
    with open(store / _JOURNAL, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                name, *fields = json.loads(line)
                entry = _Entry(*fields)
                if entry.offset + math.prod(entry.shape) <= size:
                    entries[name] = entry
    return entries


def _decode_missing(
    store: Path,
    folder: ImageFolder,
    options: DataOptions,
    fingerprints: Sequence[list[int]],
    entries: list[_Entry | None],
) -> list[str]:
    """Decodes the files without an entry, appends them to the store and sets their entries.

    Returns the path and error of each file that cannot be read.
    """
    paths, damaged = folder.paths, []
    missing = [index for index, entry in enumerate(entries) if entry is None]
    if not missing:  # so that a store that is complete may be read-only
        return []
    known = zip(paths, entries, strict=True)
    first = next(((path, entry.shape) for path, entry in known if entry), None)
    images = image_files.map_on_cores(lambda i: image_files.try_read(paths[i], options), missing)
    with (
        open(store / _PIXELS, "ab") as pixels_file,
        open(store / _JOURNAL, "ab") as journal_file,
        image_files.progress_bar(len(paths), len(paths) - len(missing)) as bar,
    ):
        for index, image in zip(missing, images, strict=True):
            bar.update()
            if isinstance(image, str):
                damaged.append(f"{paths[index]}: {image}")
                if not options.skip_damaged:
                    raise UserError(
                        f"{damaged[0]}; repair or remove the file, or leave out all such files "
                        "with --config.data.skip_damaged=True"
                    )
                continue
            pixels, highest, white = image
            first = first or (paths[index], pixels.shape)
            if pixels.shape[:2] != tuple(first[1][:2]):
                raise UserError(
                    f"images differ in size (height, width): {first[0]} {first[1][:2]}, "
                    f"{paths[index]} {pixels.shape[:2]}; give the size to bring them to, as "
                    '--config.data.image_size="(64, 64)"'
                )
            offset, checksum = pixels_file.tell(), zlib.crc32(pixels.data)
            entry = _Entry(fingerprints[index], offset, checksum, pixels.shape, highest, white)
            # Pixels first: the journal lists no pixels that are not in the file.
            pixels_file.write(pixels.data)
            pixels_file.flush()
            # The line break ends a line that a killed process left unfinished.
            journal_file.write(b"\n" + json.dumps([folder.files[index], *entry]).encode())
            journal_file.flush()
            entries[index] = entry
    return damaged
