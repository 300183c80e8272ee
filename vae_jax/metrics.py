"""From sums to an epoch's figures, and where they are written: CSV and TensorBoard."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import UserError
from vae_jax.losses import NegativeElbo
from vae_jax.run_directory import write_atomically

TERMS = tuple(field.name for field in dataclasses.fields(NegativeElbo))
COLUMNS = (
    "epoch",
    "step",
    *(f"train_{term}" for term in TERMS),
    *(f"validation_{term}" for term in TERMS),
    "images_per_second",
)


def mean_terms(pieces: Iterable[NegativeElbo], num_images: int) -> dict[str, float]:
    """Averages the loss and its terms, once, over all images.

    Args:
      pieces: terms of images, or sums over some of them, in arrays of any shape.
      num_images: how many images they are of, together.

    Returns:
      Each term's name and mean, in nats per image, summed in float64.
    """
    sums = dict.fromkeys(TERMS, 0.0)
    for piece in pieces:
        for term in TERMS:
            sums[term] += float(np.asarray(getattr(piece, term)).sum(dtype=np.float64))
    return {term: total / num_images for term, total in sums.items()}


def read_csv(path: Path) -> list[dict[str, float]]:
    """Reads the rows of a `metrics.csv`; none where there is no such file.

    Raises:
      UserError: a column is missing or a value is no number.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a metrics file of this program ({error!r}); move it away"
        ) from error
    return [{**row, "epoch": int(row["epoch"]), "step": int(row["step"])} for row in rows]


def _format(rows: Sequence[dict[str, Any]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class MetricsWriter:
    """Writes a row an epoch to `metrics.csv` and to a TensorBoard events file.

    Use as a context manager. Rows after `last_epoch` are of epochs that no checkpoint holds:
    they are dropped, and the resumed run writes them again.
    """

    def __init__(self, workdir: Path, last_epoch: int, last_step: int):
        """Opens both files in `workdir`, to go on after `last_epoch` and `last_step`."""
        from tensorboardX import SummaryWriter  # not at import: it is slow

        self._path = workdir / "metrics.csv"
        rows = [row for row in read_csv(self._path) if row["epoch"] <= last_epoch]
        write_atomically(self._path, _format(rows, header=True))
        purge_step = last_step + 1 if last_step else None
        self._events = SummaryWriter(str(workdir), purge_step=purge_step)

    def write(self, row: dict[str, float]) -> None:
        """Appends one epoch's row; it is on disk when this returns."""
        with self._path.open("a", newline="") as file:
            file.write(_format([row], header=False))
        for name in COLUMNS[2:]:
            self._events.add_scalar(name.replace("_", "/", 1), row[name], row["step"])
        self._events.flush()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._events.close()
