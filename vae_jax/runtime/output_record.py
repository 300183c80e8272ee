"""The record, in an output folder, of the files that modes wrote."""

import os
from collections.abc import Sequence
from pathlib import Path

from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_atomically

# One name per line, relative to the folder. An empty file marks the entire folder as output.
OUTPUT_MARKER = ".vae_jax_output"


def written_names(folder: str | os.PathLike[str]) -> set[str]:
    """Returns the names in a folder that modes wrote; none if it has no record."""
    try:
        return {*Path(folder, OUTPUT_MARKER).read_text(errors="replace").splitlines()}
    except OSError:
        return set()


def check_names(folder: Path, names: Sequence[str]) -> None:
    """Raises UserError if a file or folder that no mode wrote has one of the names.

    Args:
      folder: the output folder.
      names: the files and folders that a mode will write, relative to `folder`.
    """
    ours = written_names(folder)
    for path in (folder / name for name in names if name not in ours):
        is_empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        if os.path.lexists(path) and not is_empty:
            raise UserError(
                f"{path}: exists, and {folder / OUTPUT_MARKER} does not list it as output; move or "
                "remove it, or write to another folder"
            )


def record_names(folder: Path, names: Sequence[str]) -> None:
    """Records names that a mode writes in a folder: it may replace them, and they are not data."""
    lines = "\n".join(sorted(written_names(folder).union(names)))
    write_atomically(folder / OUTPUT_MARKER, lines + "\n")
