"""Run directories as versions wrote them whose steps had no numbers and whose models no labels."""

import json
from pathlib import Path
from typing import Any

from vae_jax.runtime.files import read_json, write_json
from vae_jax.training import checkpoints, metrics

# Fields, by group, and entries of the record that there were not.
_NEW_FIELDS = {"decoder": ("kind",), "data": ("levels",)}
_NEW_GROUPS = ("condition",)
_NEW_ENTRIES = ("class_names",)


def rewrite_checkpoint(folder: Path) -> None:
    """Drops what a checkpoint of an older version lacks of the progress.

    Args:
      folder: the checkpoint's, `checkpoints/STEP` in a run directory.
    """
    path = folder / "progress" / "metadata"
    content = json.loads(path.read_text())["content"]
    del content["numbers"]
    content["sums"] = content["sums"] or None  # between epochs
    content["rows"] = [[_without_numbers(row) for row in rows] for rows in content["rows"]]
    path.write_text(json.dumps({"content": content, "crc32": checkpoints._crc32(content)}))


def _without_numbers(row: dict[str, Any]) -> dict[str, Any]:
    names = (*metrics.COLUMNS, metrics.SKIPPED_COLUMN)
    return {name: value for name, value in row.items() if name in names}


def rewrite_run(workdir: Path) -> None:
    """Drops what the run directory of an older version lacks."""
    record = read_json(workdir / "config.json")
    for name in _NEW_ENTRIES:
        del record[name]
    for group in _NEW_GROUPS:
        del record["config"][group]
    for group, names in _NEW_FIELDS.items():
        for name in names:
            del record["config"][group][name]
    write_json(workdir / "config.json", record)
    for folder in (workdir / "checkpoints").iterdir():
        rewrite_checkpoint(folder)
