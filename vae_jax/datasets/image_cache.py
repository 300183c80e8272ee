"""The decoded images of a folder, in a file that only grows, with a journal of its content.

`pixels.bin` holds the pixels of one image after another, `images.jsonl` a line for each: a CRC-32
of the rest of the line, then the file's name, its fingerprint and an `_Entry` as JSON. The journal
counts up to its first damaged line, so a killed process leaves a valid store, which the next one
continues. The last line of a name counts.
"""

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from vae_jax.datasets import cache, image_files
from vae_jax.datasets.image_files import Decoded, FileRecord
from vae_jax.datasets.image_folder import ImageFolder
from vae_jax.datasets.stored_images import StoredImages
from vae_jax.datasets.structs import DataOptions
from vae_jax.runtime.locks import locked_folder

# To be raised whenever the same file would be decoded to other values.
_VERSION = 4
_PIXELS, _JOURNAL = "pixels.bin", "images.jsonl"
# A killed process loses at most the images decoded in this time.
_SECONDS_UNSAVED = 1.0


class _Entry(NamedTuple):
    """A line of the journal."""

    fingerprint: list[int]  # of the image file
    offset: int  # of the pixels, in bytes
    checksum: int  # CRC-32 of the pixels
    record: FileRecord

    @property
    def num_bytes(self) -> int:
        height, width, channels = self.record.shape
        return height * width * channels


class _Journal(NamedTuple):
    """The valid part of a store."""

    entries: dict[str, _Entry]  # by the file's name
    num_bytes: int = 0  # of the journal's valid lines; 0 for a store to be made anew
    end: int = 0  # of the pixels that the journal lists


def load(folder: ImageFolder, options: DataOptions, cache_folder: Path) -> Decoded:
    """Returns the decoded images of a folder; only new and changed files are decoded.

    Raises:
      UserError: see `image_files.decode`; or the images cannot be written.
    """
    store = images_folder(cache_folder, folder.path, options)
    fingerprints = [cache.fingerprint(path) for path in folder.paths]
    with cache.errors_of_writing(store):
        journal, entries = _find(store, folder, options, fingerprints)
        if None in entries:
            store.mkdir(parents=True, exist_ok=True)
            waiting = f"{str(store)!r}: waiting for another process, which writes these images"
            with locked_folder(store, waiting):
                journal, entries = _find(store, folder, options, fingerprints)
                _decode_missing(store, folder, options, fingerprints, journal, entries)
    found = [entry for entry in entries if entry]
    rows, notes = image_files.check_records(folder, options, [entry.record for entry in found])
    return Decoded(_stored_images(store, [found[row] for row in rows]), rows, notes)


def images_folder(cache_folder: Path, path: str, options: DataOptions) -> Path:
    """Returns the folder for the images of a path, as the options bring them to one form."""
    source = (path, options.image_size, options.channels, options.levels, False)
    return cache_folder / f"images-{cache.digest(source)}"


def damage_advice(store: Path) -> str:
    """Returns what to do if the images in a cached folder are damaged."""
    return f"delete the folder {str(store)!r}, it is made again"


def _find(
    store: Path, folder: ImageFolder, options: DataOptions, fingerprints: Sequence[list[int]]
) -> tuple[_Journal, list[_Entry | None]]:
    """Reads the journal; returns it and the entry of each unchanged file."""
    journal, entries = _read_journal(store), []
    for name, fingerprint in zip(folder.files, fingerprints, strict=True):
        entry = journal.entries.get(name)
        is_known = entry and fingerprint and entry.fingerprint == fingerprint
        # A file that cannot be read is tried again unless such files are left out.
        is_known = is_known and entry and (options.skip_damaged or not entry.record.error)
        entries.append(entry if is_known else None)
    if journal.end > 2 * sum(entry.num_bytes for entry in entries if entry):  # mostly garbage
        return _Journal({}), [None] * len(entries)
    return journal, entries


def _read_journal(store: Path) -> _Journal:
    """Reads the journal up to its first line that is damaged or whose pixels are missing."""
    entries, num_bytes, end = {}, 0, 0
    try:
        with open(store / _JOURNAL, "rb") as file:
            size = os.path.getsize(store / _PIXELS)
            if file.readline() != _header():
                return _Journal({})
            num_bytes = file.tell()
            for line in file:
                content = line[9:]
                if line[:9] != _checksum(content) or not line.endswith(b"\n"):
                    break
                name, fingerprint, offset, checksum, (shape, *rest) = json.loads(content)
                record = FileRecord(tuple(shape), *rest)
                entry = _Entry(fingerprint, offset, checksum, record)
                if (entry_end := offset + entry.num_bytes) > size:
                    break
                entries[name] = entry
                num_bytes, end = num_bytes + len(line), max(end, entry_end)
    except (FileNotFoundError, NotADirectoryError):
        return _Journal({})
    return _Journal(entries, num_bytes, end)


def _header() -> bytes:
    content = json.dumps([_VERSION, PIL.__version__]).encode() + b"\n"
    return _checksum(content) + content


def _checksum(content: bytes) -> bytes:
    return b"%08x " % zlib.crc32(content)


def _decode_missing(
    store: Path,
    folder: ImageFolder,
    options: DataOptions,
    fingerprints: Sequence[list[int]],
    journal: _Journal,
    entries: list[_Entry | None],
) -> None:
    """Decodes the files without an entry, appends them to the store and sets their entries."""
    if not journal.num_bytes:
        for path in store.iterdir():  # those of an earlier version too
            path.unlink()
        (store / _PIXELS).touch()
        (store / _JOURNAL).write_bytes(_header())
        journal = _read_journal(store)
    images = image_files.decode_missing(folder, options, [each and each.record for each in entries])
    end, lines, saved = journal.end, [], time.monotonic()
    with (
        open(store / _PIXELS, "ab") as pixels_file,
        open(store / _JOURNAL, "ab") as journal_file,
        contextlib.closing(images),
    ):
        pixels_file.truncate(end)
        journal_file.truncate(journal.num_bytes)

        def save() -> None:
            for file, content in ((pixels_file, []), (journal_file, lines)):
                file.writelines(content)
                file.flush()
                os.fsync(file.fileno())
            lines.clear()

        try:
            for index, (pixels, record) in images:
                entry = _Entry(fingerprints[index], end, zlib.crc32(pixels.data), record)
                pixels_file.write(pixels.data)
                content = json.dumps([folder.files[index], *entry]).encode() + b"\n"
                lines.append(_checksum(content) + content)
                entries[index], end = entry, end + entry.num_bytes
                if time.monotonic() - saved > _SECONDS_UNSAVED:
                    save()
                    saved = time.monotonic()
        finally:  # an error in one file keeps the files before it
            save()


def _stored_images(store: Path, entries: Sequence[_Entry]) -> StoredImages:
    height, width, _ = entries[0].record.shape
    channels = np.array([entry.record.shape[2] for entry in entries])
    is_gray = channels < channels.max()
    checksums = np.array([entry.checksum for entry in entries], np.uint32)
    return StoredImages(
        path=str(store / _PIXELS),
        key=hashlib.sha256(checksums.tobytes()).hexdigest(),
        offsets=np.array([entry.offset for entry in entries], np.int64),
        image_shape=(height, width, int(channels.max())),
        is_gray=is_gray if is_gray.any() else None,
        checksums=checksums,
        advice=damage_advice(store),
    )
