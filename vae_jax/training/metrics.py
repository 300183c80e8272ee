"""From sums to an epoch's metrics, and where they are written: CSV and TensorBoard."""

import contextlib
import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct

from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import errors_that_name, write_atomically

# The terms that every file has, in this order; others follow them in alphabetical order.
TERMS = ("loss", "reconstruction", "kl")
# The columns that every file has. Others follow them: numbers of the steps, averaged over an epoch.
COLUMNS = (
    "epoch",
    "step",
    *(f"train_{term}" for term in TERMS),
    *(f"validation_{term}" for term in TERMS),
    "images_per_second",
)
# How many updates were not finite, if those are skipped.
SKIPPED_COLUMN = "skipped_updates"
_STD = "_std"


@struct.dataclass
class StepMetrics:
    """Metrics of a training step, or of several, which are then the arrays' first axis.

    Attributes:
      sums: terms by name, summed over the step's batch, `<float>[...]`.
      numbers: other numbers of the step by name, such as the gradient's norm, `<float>[...]`.
    """

    sums: dict[str, Any]
    numbers: dict[str, Any]

    def __len__(self) -> int:
        """Returns the number of steps."""
        return len(self.sums["loss"])

    def __getitem__(self, rows: slice) -> "StepMetrics":
        return jax.tree.map(lambda values: values[rows], self)


def concatenate(pieces: Sequence[StepMetrics]) -> StepMetrics:
    """Puts the metrics of steps one after another; NaN where a piece lacks a name."""

    def join(dictionaries: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        names = dict.fromkeys(name for each in dictionaries for name in each)
        return {
            name: np.concatenate(
                [
                    each.get(name, np.full_like(piece.sums["loss"], np.nan))
                    for each, piece in zip(dictionaries, pieces, strict=True)
                ]
            )
            for name in names
        }

    return StepMetrics(
        join([piece.sums for piece in pieces]), join([piece.numbers for piece in pieces])
    )


def _place(column: str) -> tuple[Any, ...]:
    """Returns a key that sorts columns: terms by split, then the others; deviations last."""
    name = column.removesuffix(_STD)
    if name in COLUMNS:
        place = (COLUMNS.index(name), "")
    else:
        split = next((s for s in ("train", "validation") if name.startswith(f"{s}_")), None)
        place = (COLUMNS.index(f"{split}_{TERMS[-1]}") if split else len(COLUMNS), name)
    return name != column, *place


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists the columns of rows, in order; those that every file has, without any row."""
    names = dict.fromkeys(name for row in rows for name in row)
    return sorted(names or COLUMNS, key=_place)


def mean_terms(
    terms: Mapping[str, np.ndarray], num_images: int | np.ndarray
) -> list[dict[str, float]]:
    """Averages the loss and its terms, once, over all images.

    Args:
      terms: of images, or sums over some of them, each `<float>[n]`, or `<float>[n, replicas]`.
      num_images: how many images they are of, together, or `<int>[replicas]`.

    Returns:
      For each replica each term's name and mean, in nats per image, summed in float64.
    """
    means = {
        term: np.atleast_1d(np.asarray(values).sum(0, dtype=np.float64) / num_images)
        for term, values in sorted(terms.items(), key=lambda item: _place(f"train_{item[0]}"))
    }
    return [
        {term: float(column[index]) for term, column in means.items()}
        for index in range(len(means["loss"]))
    ]


def epoch_means(steps: StepMetrics, batch_size: int) -> tuple[list[dict[str, float]], np.ndarray]:
    """Averages the metrics of an epoch's steps; steps whose loss is not finite do not count.

    Args:
      steps: `<float>[steps]` or `<float>[steps, replicas]`; at least one loss of each replica is
        finite.
      batch_size: images in a step.

    Returns:
      For each replica its columns: "train_" and the term for each term, in nats per image, and the
      means of the numbers, over the steps that have them; and how many steps were left out,
      `<int>[replicas]`.
    """
    finite = np.isfinite(steps.sums["loss"])
    counted = {name: np.where(finite, sums, 0.0) for name, sums in steps.sums.items()}
    num_steps = np.atleast_1d(finite.sum(0))
    rows = [
        # NaN is a term that an older version did not measure in the epoch's first steps.
        {f"train_{term}": value for term, value in means.items() if not math.isnan(value)}
        for means in mean_terms(counted, num_steps * batch_size)
    ]
    for name, values in steps.numbers.items():
        measured = np.isfinite(values)
        # Not every step measures every number.
        totals = np.where(measured, values, 0.0).sum(0, dtype=np.float64)
        counts = measured.sum(0)
        for row, total, count in zip(
            rows, np.atleast_1d(totals), np.atleast_1d(counts), strict=True
        ):
            if count:
                row[name] = float(f"{total / count:.7g}")  # as many digits as float32 has
    return rows, len(finite) - num_steps


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
    mean |= {name: rows[0][name] for name in ("epoch", "step")}  # whole numbers
    terms = (name for name in std if name.startswith(("train_", "validation_")))
    return mean | {f"{name}{_STD}": std[name] for name in terms}


def _format(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    # A number that was not measured is an empty cell.
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, float]]:
    """Reads the rows of a `metrics.csv`; a row lacks the names of its empty cells.

    Raises:
      UserError: it cannot be read, or holds something else than numbers.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            {column: float(value) for column, value in row.items() if value != ""} for row in rows
        ]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{path}: is damaged ({error})") from error


class EpochWriters:
    """Writes the rows of an epoch: each replica's, and the means where there are several.

    Use as a context manager.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        workdir: Path,
        previous_rows: Sequence[Sequence[dict[str, float]]],
    ):
        """Opens the files.

        Args:
          folders: each replica's.
          workdir: the run's; the same as the one replica's.
          previous_rows: for each epoch so far, each replica's row.
        """
        with contextlib.ExitStack() as stack:
            self._each = [
                stack.enter_context(MetricsWriter(folder, [rows[i] for rows in previous_rows]))
                for i, folder in enumerate(folders)
            ]
            if len(folders) > 1:
                means = [combine(rows) for rows in previous_rows]
                self._mean = stack.enter_context(MetricsWriter(workdir, means))
            self._stack = stack.pop_all()

    def write(self, rows: Sequence[dict[str, float]]) -> None:
        """Writes one epoch's rows."""
        for writer, row in zip(self._each, rows, strict=True):
            writer.write(row)
        if len(rows) > 1:
            self._mean.write(combine(rows))

    def __enter__(self) -> "EpochWriters":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()


def _tag(column: str) -> str:
    """Returns a column's tag in TensorBoard: terms are grouped by their split."""
    is_term = column.startswith(("train_", "validation_"))
    return column.replace("_", "/", 1) if is_term else column


class MetricsWriter:
    """Writes a row an epoch to `metrics.csv` and to a TensorBoard events file.

    Use as a context manager. What `metrics.csv` held before is replaced by the rows given.
    """

    def __init__(self, workdir: Path, rows: Sequence[dict[str, float]] = ()):
        """Opens both files in `workdir`, to go on after `rows`."""
        # Not at import: it is slow. And this class, whose `SummaryWriter` writes in a thread:
        # when the disk is full, that thread dies and its queue blocks for ever.
        from tensorboardX.event_file_writer import EventsWriter

        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / "metrics.csv"
        self._rows = list(rows)
        self._write_csv()
        self._events_path = workdir / "events.out.tfevents"
        with errors_that_name(self._events_path):
            # The class puts the second in the file's name, in which a second file may be opened.
            self._events = EventsWriter(str(workdir / "events"), f".{time.time_ns()}")
            if rows:
                self._purge_after(int(rows[-1]["step"]))

    def _write_csv(self) -> None:
        write_atomically(self._path, _format(self._rows))

    def _purge_after(self, step: int) -> None:
        """Tells TensorBoard to forget what earlier files hold of later steps."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        log = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=log))
        self._events.flush()

    def write(self, row: dict[str, float]) -> None:
        """Appends one epoch's row; it is on disk when this returns."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        self._rows.append(row)
        self._write_csv()
        values = [
            Summary.Value(tag=_tag(name), simple_value=value)
            for name, value in row.items()
            if name not in ("epoch", "step")
        ]
        event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
        with errors_that_name(self._events_path):
            self._events.write_event(event)
            self._events.flush()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        with errors_that_name(self._events_path):
            self._events.close()
