"""Metrics: from the sums of steps to the rows of epochs, in CSV and TensorBoard files."""

import contextlib
import csv
import io
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct

from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_atomically

# The terms that every file has, in this order.
TERMS = ("loss", "reconstruction", "kl")
# The columns that every file has; others follow them, in alphabetical order.
COLUMNS = (
    "epoch",
    "step",
    *(f"train_{term}" for term in TERMS),
    *(f"validation_{term}" for term in TERMS),
    "images_per_second",
)
# The number of updates that were not finite, if those are skipped.
SKIPPED_COLUMN = "skipped_updates"


@struct.dataclass
class StepMetrics:
    """Metrics of a training step, or of several, which are then the arrays' first axis."""

    sums: dict[str, Any]  # terms by name, summed over the step's batch, `<float>[...]`
    numbers: dict[str, Any]  # other numbers of the step, as the gradient's norm, `<float>[...]`

    def __len__(self) -> int:
        return len(self.sums["loss"])

    def __getitem__(self, rows: slice) -> "StepMetrics":
        return jax.tree.map(lambda values: values[rows], self)


def concatenate(pieces: Sequence[StepMetrics]) -> StepMetrics:
    """Joins the metrics of consecutive steps; leaves out names that an older version's lack."""

    def join(parts: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        names = [name for name in parts[0] if all(name in part for part in parts)]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    return StepMetrics(join([p.sums for p in pieces]), join([p.numbers for p in pieces]))


def mean_terms(
    terms: Mapping[str, np.ndarray], num_images: int | np.ndarray
) -> list[dict[str, float]]:
    """Averages terms, each `<float>[n]` or `<float>[n, replicas]`, over all images, in float64.

    They are of images, or sums over some of the `num_images`, also `<int>[replicas]`. Returns each
    replica's means by name, in nats per image.
    """
    means = {
        term: np.atleast_1d(np.asarray(values).sum(0, dtype=np.float64) / num_images)
        for term, values in terms.items()
    }
    columns = zip(*means.values(), strict=True)
    return [dict(zip(means, map(float, column), strict=True)) for column in columns]


def epoch_means(
    steps: StepMetrics, batch_size: int, counts_skipped: bool = False
) -> list[dict[str, float]]:
    """Averages the metrics of an epoch's steps; steps whose loss is not finite do not count.

    At least one loss of each replica must be finite. Returns each replica's columns: "train_" and
    the term for each term, in nats per image; the means of the numbers, over the steps that have
    them; if `counts_skipped`, the number of steps that do not count.
    """
    finite = np.isfinite(steps.sums["loss"])
    counted = {name: np.where(finite, sums, 0.0) for name, sums in steps.sums.items()}
    num_steps = np.atleast_1d(finite.sum(0))
    rows: list[dict[str, float]] = [
        {f"train_{term}": value for term, value in means.items()}
        for means in mean_terms(counted, num_steps * batch_size)
    ]
    for name, values in steps.numbers.items():
        for row, column in zip(rows, values.reshape(len(finite), -1).T, strict=True):
            # Not every step measures every number.
            if (measured := column[np.isfinite(column)]).size:
                # As many digits as float32 has.
                row[name] = float(f"{measured.mean(dtype=np.float64):.7g}")
    if counts_skipped:
        for row, count in zip(rows, num_steps, strict=True):
            row[SKIPPED_COLUMN] = int(len(finite) - count)
    return rows


def mean_and_std(
    rows: Sequence[Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Computes each field's mean over replicas and sample standard deviation (0 of one row).

    A number that some replicas lack is averaged over the others.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    table = {name: np.array([row[name] for row in rows if name in row]) for name in names}
    return (
        {name: float(values.mean()) for name, values in table.items()},
        {name: float(values.std(ddof=min(1, len(values) - 1))) for name, values in table.items()},
    )


def combine(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Combines the replicas' rows: the only one, or their means and the deviations of the terms."""
    if len(rows) == 1:
        return rows[0]
    mean, std = mean_and_std(rows)
    mean |= {name: rows[0][name] for name in ("epoch", "step")}  # integers
    terms = (name for name in std if name.startswith(("train_", "validation_")))
    return mean | {f"{name}_std": std[name] for name in terms}


def read_rows(path: Path) -> list[dict[str, float]]:
    """Reads the rows of a `metrics.csv`; a row lacks the names of its empty cells.

    Raises:
      UserError: it cannot be read, or holds something else than numbers.
    """
    try:
        with path.open(newline="") as file:
            return [
                {column: float(value) for column, value in row.items() if value != ""}
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{path}: is damaged ({error})") from error


class MetricsWriter(contextlib.AbstractContextManager):
    """Writes each replica's row an epoch to `metrics.csv` and a TensorBoard events file.

    The means of several replicas go to the run's folder. Use as a context manager.
    """

    def __init__(
        self,
        workdir: Path,
        folders: Sequence[Path],
        previous_rows: Sequence[Sequence[dict[str, float]]] = (),
    ):
        """Opens the files in the run's folder and each replica's; `workdir` if it is one.

        The rows of an existing `metrics.csv` are replaced by `previous_rows`: for each epoch so
        far, each replica's.
        """
        # Not at import: it is slow. And not tensorboardX's `SummaryWriter`, which writes in a
        # thread: when the disk is full, that thread ends and its queue blocks forever.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        self._workdir, self._folders, self._events = workdir, folders, {}
        self._rows: dict[Path, list[dict[str, float]]] = {f: [] for f in (*folders, workdir)}
        for rows in previous_rows:
            self._append(rows)
        for folder, rows in self._rows.items():
            folder.mkdir(parents=True, exist_ok=True)
            _write_csv(folder / "metrics.csv", rows)
            # The name has the second of opening, in which a second file may be opened.
            self._events[folder] = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
            # TensorBoard then forgets later steps that earlier files hold.
            log = SessionLog(status=SessionLog.START)
            step = int(rows[-1]["step"]) + 1 if rows else 0
            self._write_event(folder, step=step, session_log=log)

    def _append(self, rows: Sequence[dict[str, float]]) -> None:
        by_folder = {**dict(zip(self._folders, rows, strict=True)), self._workdir: combine(rows)}
        for folder, row in by_folder.items():
            self._rows[folder].append(row)

    def _write_event(self, folder: Path, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events[folder].write_event(Event(wall_time=time.time(), **fields))
        self._events[folder].flush()

    def write(self, rows: Sequence[dict[str, float]]) -> None:
        """Appends one epoch's row of each replica; they are on disk when this returns."""
        from tensorboardX.proto.summary_pb2 import Summary

        self._append(rows)
        for folder, table in self._rows.items():
            _write_csv(folder / "metrics.csv", table)
            # In TensorBoard terms are grouped by their split: `train/loss`.
            values = [
                Summary.Value(tag=re.sub("^(train|validation)_", r"\1/", name), simple_value=value)
                for name, value in table[-1].items()
                if name not in ("epoch", "step")
            ]
            self._write_event(folder, step=int(table[-1]["step"]), summary=Summary(value=values))

    def __exit__(self, *exception: Any) -> None:
        for events in self._events.values():
            events.close()


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    # Further terms, numbers of the steps, and deviations of several replicas.
    others = {name for row in rows for name in row} - {*COLUMNS}
    text = io.StringIO()
    # A number that was not measured is an empty cell.
    writer = csv.DictWriter(text, [*COLUMNS, *sorted(others)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
