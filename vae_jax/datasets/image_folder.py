"""Which files of a folder are images, and of which split and class each is."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import read_json
from vae_jax.runtime.output_record import OUTPUT_MARKER, written_names

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".avif"),
)
# Files and folders that systems leave behind, beside those whose name begins with a dot.
_HIDDEN = (
    *("thumbs.db", "desktop.ini", "@eadir", "@recycle", "@recently-snapshot", "#recycle"),
    *("__macosx", "$recycle.bin", "recycler", "lost+found", "system volume information"),
)
# Beside a `config.json` one of these makes a folder a run directory.
_RUN_FILES = ("metrics.csv", "summary.json", "checkpoints", "weights.safetensors")
# Names of folders that are splits, in lower case.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class ImageFolder(NamedTuple):
    """The image files below a folder, sorted by name."""

    path: str  # with symbolic links resolved
    files: tuple[str, ...]  # names, relative to the folder
    num_others: int  # files that are no images by their name, hidden ones not counted
    outputs: tuple[str, ...] = ()  # folders left out: runs, and the output of modes

    def path_of(self, index: int) -> str:
        """Returns the path of an image file."""
        return os.path.join(self.path, self.files[index])


def list_images(path: str) -> ImageFolder:
    """Lists the image files of a folder and of its subfolders, at any depth; or one image file.

    Files that systems hide and this package's output are left out. Symbolic links are followed.

    Raises:
      UserError: a folder cannot be read, a symbolic link leads back to a folder above it, there
        is no image, or the folder is a run directory or output itself.
    """
    if os.path.isfile(path):
        folder, name = os.path.split(os.path.abspath(path))
        return ImageFolder(folder, (name,), 0)
    root = os.path.realpath(path)
    files, outputs, num_others = [], [], 0
    try:
        for entry in _walk(root, outputs):
            is_image = _is_image(entry)
            files += [entry.path[len(os.path.join(root, "")) :]] if is_image else []
            num_others += not is_image
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: cannot be read ({error.strerror or error})"
        ) from error
    if root in outputs or (outputs and not files):
        raise UserError(f"data.path={path} is a run's output, not data; give the original images")
    if not files:
        others = f"; it holds {num_others} other files" if num_others else ""
        raise UserError(
            f"data.path={path} holds no image, that is, no file named {', '.join(SUFFIXES)}{others}"
        )
    return ImageFolder(root, tuple(sorted(files)), num_others, tuple(sorted(outputs)))


def _walk(root: str, outputs: list[str]) -> Iterator[os.DirEntry[str]]:
    """Yields the entries below a folder that are no folders, in no order; lists `outputs` apart."""
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(root, ())]
    written: set[str] = set()
    while pending:
        folder, above = pending.pop()
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise UserError(
                f"{folder}: a symbolic link that leads back to a folder above it; remove the link"
            )
        with os.scandir(folder) as scanned:
            entries = [*scanned]
        if _is_output(folder, {entry.name for entry in entries}):
            outputs.append(folder)
            continue
        written |= {os.path.join(folder, name) for name in written_names(folder)}
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _HIDDEN:
                continue
            is_folder = _is_folder(entry)
            if entry.path in written:
                outputs += [entry.path] if is_folder else []
            elif is_folder:
                pending.append((entry.path, (*above, identity)))
            else:
                yield entry


def _is_output(folder: str, names: set[str]) -> bool:
    """Tells whether a folder that holds these names is a run directory, or output as a whole."""
    if OUTPUT_MARKER in names and not written_names(folder):
        return True
    if "config.json" not in names or names.isdisjoint(_RUN_FILES):
        return False
    try:
        return "config" in read_json(Path(folder, "config.json"))
    except (UserError, TypeError):  # not a run's
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say: reading it as a file says what is wrong
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Tells whether an entry that is no folder is an image by its name and kind."""
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
        return False
    try:
        return stat.S_ISREG(entry.stat().st_mode)  # reading a pipe would wait for ever
    except OSError:  # a broken link, or gone: decoding it says so
        return True


def arrange(folder: ImageFolder) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Tells each file's split and class by the folders it is in.

    A folder that holds all others is passed through. If those below it are named as splits,
    "train" among them, they are the splits. The class is the next folder on the way to the file.

    Returns:
      The splits, `<str>[n]`: "all", or "train" and others; the classes, `<int32>[n]`, None where
      there are none; and their names, sorted.

    Raises:
      UserError: some files lie beside class folders.
    """
    parts = [name.split(os.sep) for name in folder.files]
    depth = 0  # of folders that are passed through
    while len({part[depth] for part in parts}) == 1 and min(map(len, parts)) > depth + 2:
        depth += 1
    split_of = [SPLITS.get(p[depth].lower(), "") if len(p) > depth + 1 else "" for p in parts]
    has_splits = "" not in split_of and "train" in split_of and len({*split_of}) > 1
    depth += has_splits
    splits = np.array(split_of if has_splits else ["all"] * len(parts))
    inside = [len(part) > depth + 1 for part in parts]
    if not all(inside):
        if any(inside):
            outside, within = folder.files[inside.index(False)], folder.files[inside.index(True)]
            error = UserError(
                f"{folder.path} holds images both beside class folders, as {outside!r}, and in "
                f"them, as {within!r}; put every image into a class folder, or none"
            )
            if not has_splits:
                raise error
            print(f"{error}; the images have no labels", file=sys.stderr)
        return splits, None, ()
    names, labels = np.unique([part[depth] for part in parts], return_inverse=True)
    return splits, labels.astype(np.int32), tuple(map(as_text, names))


def as_text(name: object) -> str:
    """Returns a name as it is; but bytes that are no text are escaped, which no file could hold."""
    return str(name).encode(errors="backslashreplace").decode()
