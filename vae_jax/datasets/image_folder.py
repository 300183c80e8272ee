"""The image files of a folder, and the split and class of each."""

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vae_jax.runtime.errors import UserError
from vae_jax.runtime.output_record import OUTPUT_MARKER, written_names

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".avif"),
)
# Files and folders that systems add, beside those whose name begins with a dot.
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
    num_others: int  # files that are not images by their name, except hidden ones
    outputs: tuple[str, ...] = ()  # ignored folders: runs, and the output of modes

    @property
    def paths(self) -> list[str]:
        """The paths of the files."""
        return [os.path.join(self.path, name) for name in self.files]


def list_images(path: str) -> ImageFolder:
    """Lists the image files of a folder and of its subfolders, at any depth; or one image file.

    Hidden files and this package's output are ignored. Symbolic links are followed.

    Raises:
      UserError: a folder cannot be read, a symbolic link leads back to a folder above it, there
        is no image, or the folder is a run directory or output itself.
    """
    if os.path.isfile(path):
        folder, name = os.path.split(os.path.abspath(path))
        return ImageFolder(folder, (name,), 0)
    root, outputs = os.path.realpath(path), []
    try:
        entries = [*_walk(root, (), outputs)]
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{error.filename or root}: cannot be read ({reason})") from error
    # Pipes are not images: reading them would block. Decoding reports broken links.
    images = [entry for entry in entries if entry.name.lower().endswith(SUFFIXES)]
    images = [entry for entry in images if entry.is_file() or entry.is_symlink()]
    files = [os.path.relpath(entry.path, root) for entry in images]
    num_others = len(entries) - len(files)
    if root in outputs or (outputs and not files):
        raise UserError(f"data.path={path} is a run's output, not data; give the original images")
    if not files:
        others = f"; it holds {num_others} other files" if num_others else ""
        raise UserError(
            f"data.path={path} holds no image, that is, no file named {', '.join(SUFFIXES)}{others}"
        )
    return ImageFolder(root, tuple(sorted(files)), num_others, tuple(sorted(outputs)))


def _walk(
    folder: str, above: tuple[tuple[int, int], ...], outputs: list[str]
) -> Iterator[os.DirEntry[str]]:
    """Yields the files below a folder, in any order; adds ignored folders to `outputs`."""
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise UserError(
            f"{folder}: a symbolic link leads back to a folder above it; remove the link"
        )
    with os.scandir(folder) as scanned:
        entries = [*scanned]
    written = written_names(folder)
    names = {entry.name for entry in entries}
    is_run = "config.json" in names and not names.isdisjoint(_RUN_FILES)
    if is_run or (OUTPUT_MARKER in names and not written):  # an empty marker: all is output
        outputs.append(folder)
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _HIDDEN:
            continue
        if entry.name in written:
            outputs += [entry.path] if entry.is_dir() else []
        elif entry.is_dir():
            yield from _walk(entry.path, (*above, identity), outputs)
        else:
            yield entry


def arrange(folder: ImageFolder) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Finds the split and class of each file by the folders it is in.

    A folder that holds all others is passed through. If those below it are named as splits,
    "train" among them, they are the splits. The class is the next folder on the way to the file.

    Returns:
      The splits, `<str>[n]`: "all", or "train" and others; the classes, `<int32>[n]`, None without
      class folders; and their names, sorted.
    """
    parts = [name.split(os.sep) for name in folder.files]
    depth = 0  # of folders that are passed through
    while len({part[depth] for part in parts}) == 1 and min(map(len, parts)) > depth + 2:
        depth += 1
    split_of = [SPLITS.get(p[depth].lower(), "") if len(p) > depth + 1 else "" for p in parts]
    has_splits = "" not in split_of and "train" in split_of and len({*split_of}) > 1
    depth += has_splits
    splits = np.array(split_of if has_splits else ["all"] * len(parts))
    is_inside = [len(part) > depth + 1 for part in parts]
    if not all(is_inside):
        if any(is_inside):
            outside, inside = (folder.files[is_inside.index(value)] for value in (False, True))
            error = UserError(
                f"{folder.path} holds images both beside class folders, as {outside!r}, and in "
                f"them, as {inside!r}; put every image into a class folder, or none"
            )
            if not has_splits:
                raise error
            print(f"{error}; the images have no labels", file=sys.stderr)
        return splits, None, ()
    names, labels = np.unique([part[depth] for part in parts], return_inverse=True)
    return splits, labels.astype(np.int32), tuple(map(as_text, names))


def as_text(name: object) -> str:
    """Returns a name as it is, except that characters that are not Unicode are escaped."""
    return str(name).encode(errors="backslashreplace").decode(errors="backslashreplace")
