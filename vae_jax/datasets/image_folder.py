"""Which files of a folder are images, and of which class each is."""

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vae_jax.runtime.errors import UserError

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".avif"),
)
# Files that systems leave behind, beside those whose name begins with a dot.
_HIDDEN = ("thumbs.db", "desktop.ini")


class ImageFile(NamedTuple):
    """A file that is an image by its name."""

    name: str  # relative to the folder
    size: int  # in bytes; -1 where the file cannot be asked
    mtime_ns: int


class ImageFolder(NamedTuple):
    """The image files below a folder, sorted by name."""

    path: str  # with symbolic links resolved
    files: tuple[ImageFile, ...]
    num_others: int  # files that are no images by their name, hidden ones not counted

    def path_of(self, index: int) -> str:
        """Returns the path of an image file."""
        return os.path.join(self.path, self.files[index].name)


def list_images(path: str) -> ImageFolder:
    """Lists the image files of a folder and of its subfolders, at any depth.

    Files that systems hide are not looked at. Symbolic links are followed.

    Raises:
      UserError: a folder cannot be read, a symbolic link leads back to a folder above it, or there
        is no image.
    """
    root = os.path.realpath(path)
    files, num_others = [], 0
    try:
        for entry in _walk(root):
            file = _image_file(entry, root)
            files += [file] if file else []
            num_others += not file
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: cannot be read ({error.strerror or error})"
        ) from error
    if not files:
        others = f"; it holds {num_others} other files" if num_others else ""
        raise UserError(
            f"data.path={path} holds no image, that is, no file named {', '.join(SUFFIXES)}{others}"
        )
    return ImageFolder(root, tuple(sorted(files)), num_others)


def _walk(root: str) -> Iterator[os.DirEntry[str]]:
    """Yields the entries below a folder that are no folders, in no order."""
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(root, ())]
    while pending:
        folder, above = pending.pop()
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise UserError(
                f"{folder}: a symbolic link that leads back to a folder above it; remove the link"
            )
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _HIDDEN:
                    continue
                if _is_folder(entry):
                    pending.append((entry.path, (*above, identity)))
                else:
                    yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say: reading it as a file says what is wrong
        return False


def _image_file(entry: os.DirEntry[str], root: str) -> ImageFile | None:
    """Returns the entry as an image file; None where its name or kind is another."""
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
        return None
    name = entry.path[len(os.path.join(root, "")) :]
    try:
        status = entry.stat()
    except OSError:  # a broken link, or gone: decoding it says so
        return ImageFile(name, -1, -1)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        return None
    return ImageFile(name, status.st_size, status.st_mtime_ns)


def classes(folder: ImageFolder) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Returns each file's class and the names of the classes, sorted.

    The class of a file is the first folder below the root that it is in.

    Returns:
      `<int32>[n]` and the names; None and no names where all files lie in the root.

    Raises:
      UserError: some files lie in the root, others in subfolders.
    """
    inside = [file.name for file in folder.files if os.sep in file.name]
    if not inside:
        return None, ()
    if len(inside) < len(folder.files):
        outside = next(file.name for file in folder.files if os.sep not in file.name)
        raise UserError(
            f"{folder.path} holds images both in itself, as {outside!r}, and in subfolders, as "
            f"{inside[0]!r}; subfolders are classes: put every image into one, or none"
        )
    names, labels = np.unique([name.split(os.sep)[0] for name in inside], return_inverse=True)
    return labels.astype(np.int32), tuple(map(printable, names))


def printable(name: object) -> str:
    """Returns a class's name in one line: what a file system allows and no text is escaped."""
    text = str(name)
    return text if text.isprintable() else ascii(text)[1:-1]
