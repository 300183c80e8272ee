"""The image files of a folder, and the split and class of each."""

import os
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import numpy as np

from vae_jax.runtime.errors import UserError
from vae_jax.runtime.output_record import OUTPUT_MARKER, written_names

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm"),
    *(".jp2", ".avif"),
)
# Folders that systems add, beside those whose name begins with a dot.
_OF_SYSTEMS = ("@eadir", "__macosx", "$recycle.bin", "lost+found")
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

    @property
    def paths(self) -> list[str]:
        """The paths of the files."""
        return [os.path.join(self.path, name) for name in self.files]


def list_images(path: str) -> ImageFolder:
    """Lists the image files of a folder and of its subfolders, at any depth; or one image file.

    Raises:
      UserError: a folder cannot be read, or there is no image.
    """
    if os.path.isfile(path):
        folder, name = os.path.split(os.path.abspath(path))
        return ImageFolder(folder, (name,))
    root = os.path.realpath(path)
    try:
        files = tuple(sorted(_walk(root)))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{error.filename or root}: cannot be read ({reason})") from error
    if not files:
        raise UserError(
            f"data.path={path} holds no image, that is, no file named {', '.join(SUFFIXES)}; runs "
            "and the output of modes are ignored"
        )
    return ImageFolder(root, files)


def _walk(root: str) -> Iterator[str]:
    """Yields the names of images below a folder, but hidden files and this package's output.

    Symbolic links are followed, but no folder is read twice.
    """
    seen = {root}
    for folder, subfolders, names in os.walk(root, onerror=_raise, followlinks=True):
        entries, written = {*subfolders, *names}, written_names(folder)
        is_run = "config.json" in entries and not entries.isdisjoint(_RUN_FILES)
        if is_run or (OUTPUT_MARKER in entries and not written):  # an empty marker: all is output
            subfolders.clear()
            continue
        shown = {name for name in entries - written if not name.startswith(".")}
        for name in shown.intersection(names):
            if name.lower().endswith(SUFFIXES):
                yield os.path.join(folder[len(root) :].lstrip(os.sep), name)
        subfolders[:] = []
        for name in sorted(shown.difference(names)):
            target = os.path.realpath(os.path.join(folder, name))
            if name.lower() not in _OF_SYSTEMS and target not in seen:
                seen.add(target)
                subfolders.append(name)


def _raise(error: OSError) -> NoReturn:
    raise error


def arrange(folder: ImageFolder) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Finds the split and class of each file by the folders it is in.

    A folder that holds all others is passed through. If those below it are named as splits,
    "train" among them, they are the splits. The class is the next folder on the way to the file.

    Returns:
      The splits, `<str>[n]`: "all", or "train" and others; the classes, `<int32>[n]`, None without
      class folders; and their names, sorted.

    Raises:
      UserError: images lie both in class folders and beside them.
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
    if not any(is_inside):
        return splits, None, ()
    if not all(is_inside):
        outside, inside = (folder.files[is_inside.index(value)] for value in (False, True))
        raise UserError(
            f"{folder.path} holds images both beside class folders, as {outside!r}, and in them, "
            f"as {inside!r}; put every image into a class folder, or none"
        )
    names, labels = np.unique([part[depth] for part in parts], return_inverse=True)
    return splits, labels.astype(np.int32), tuple(map(str, names))
