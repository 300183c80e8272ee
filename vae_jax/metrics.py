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
# Behind the means over replicas.
STD_COLUMNS = tuple(f"{column}_std" for column in COLUMNS[2:-1])


def mean_terms(pieces: Iterable[NegativeElbo], num_images: int) -> list[dict[str, float]]:
    """Averages the loss and its terms, once, over all images.

    Args:
      pieces: terms of images, or sums over some of them, each `<float>[n]`, or
        `<float>[n, replicas]` of several replicas.
      num_images: how many images they are of, together.

    Returns:
      For each replica each term's name and mean, in nats per image, summed in float64.
    """
    sums = {term: np.zeros(()) for term in TERMS}
    for piece in pieces:
        for term in TERMS:
            sums[term] = sums[term] + np.asarray(getattr(piece, term)).sum(0, dtype=np.float64)
    columns = {term: np.atleast_1d(total / num_images) for term, total in sums.items()}
    num_replicas = len(columns[TERMS[0]])
    return [
        {term: float(column[index]) for term, column in columns.items()}
        for index in range(num_replicas)
    ]


def mean_and_std(rows: Sequence[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Each field's mean over replicas, and its sample standard deviation (0 of one row)."""
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    ddof = 1 if len(rows) > 1 else 0
    return (
        {name: float(values.mean()) for name, values in table.items()},
        {name: float(values.std(ddof=ddof)) for name, values in table.items()},
    )


def combine(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """One row of several replicas' rows: their means, then the `STD_COLUMNS`."""
    mean, std = mean_and_std(rows)
    mean |= {name: rows[0][name] for name in ("epoch", "step")}  # whole numbers
    return mean | {column: std[column.removesuffix("_std")] for column in STD_COLUMNS}


def read_csv(path: Path) -> list[dict[str, float]]:
    """Reads the rows of a `metrics.csv`; none where there is no such file.

    The `STD_COLUMNS` are read where the file has them.

    Raises:
      UserError: a column is missing or a value is no number.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            has_std = set(STD_COLUMNS) <= set(reader.fieldnames or ())
            columns = COLUMNS + STD_COLUMNS if has_std else COLUMNS
            rows = [{name: float(row[name]) for name in columns} for row in reader]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a metrics file of this program ({error!r}); move it away"
        ) from error
    return [{**row, "epoch": int(row["epoch"]), "step": int(row["step"])} for row in rows]


def _format(rows: Sequence[dict[str, Any]], columns: Sequence[str], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class MetricsWriter:
    """Writes a row an epoch to `metrics.csv` and to a TensorBoard events file.

    Use as a context manager. Rows after `last_epoch` are of epochs that no checkpoint holds:
    they are dropped, and the resumed run writes them again.
    """

    def __init__(
        self, workdir: Path, last_epoch: int, last_step: int, columns: Sequence[str] = COLUMNS
    ):
        """Opens both files in `workdir`, to go on after `last_epoch` and `last_step`."""
        from tensorboardX import SummaryWriter  # not at import: it is slow

        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / "metrics.csv"
        self._columns = columns
        rows = [row for row in read_csv(self._path) if row["epoch"] <= last_epoch]
        write_atomically(self._path, _format(rows, columns, header=True))
        purge_step = last_step + 1 if last_step else None
        self._events = SummaryWriter(str(workdir), purge_step=purge_step)

    def write(self, row: dict[str, float]) -> None:
        """Appends one epoch's row; it is on disk when this returns."""
        with self._path.open("a", newline="") as file:
            file.write(_format([row], self._columns, header=False))
        for name in self._columns[2:]:
            self._events.add_scalar(name.replace("_", "/", 1), row[name], row["step"])
        self._events.flush()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._events.close()
