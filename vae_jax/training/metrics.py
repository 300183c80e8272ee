"""From sums to an epoch's metrics, and where they are written: CSV and TensorBoard."""

import contextlib
import csv
import dataclasses
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.model.losses import LossTerms
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import errors_that_name, write_atomically

TERMS = tuple(field.name for field in dataclasses.fields(LossTerms))
COLUMNS = (
    "epoch",
    "step",
    *(f"train_{term}" for term in TERMS),
    *(f"validation_{term}" for term in TERMS),
    "images_per_second",
)
# Where updates that are not finite are skipped: how many were.
SKIPPED_COLUMN = "skipped_updates"
# Behind the means over replicas.
STD_COLUMNS = tuple(f"{column}_std" for column in COLUMNS[2:-1])


def mean_terms(terms: LossTerms, num_images: int | np.ndarray) -> list[dict[str, float]]:
    """Averages the loss and its terms, once, over all images.

    Args:
      terms: of images, or sums over some of them, each `<float>[n]`, or `<float>[n, replicas]`.
      num_images: how many images they are of, together, or `<int>[replicas]`.

    Returns:
      For each replica each term's name and mean, in nats per image, summed in float64.
    """
    means = {
        term: np.atleast_1d(np.asarray(values).sum(0, dtype=np.float64) / num_images)
        for term, values in vars(terms).items()
    }
    return [
        {term: float(column[index]) for term, column in means.items()}
        for index in range(len(means["loss"]))
    ]


def epoch_terms(sums: LossTerms, batch_size: int) -> tuple[list[dict[str, float]], np.ndarray]:
    """Averages the sums of an epoch's steps; steps whose loss is not finite do not count.

    Args:
      sums: sums over each step's batch, `<float>[steps]` or `<float>[steps, replicas]`; at least
        one loss of each replica is finite.
      batch_size: images in a step.

    Returns:
      For each replica each term's name and mean, in nats per image, and how many steps were
      left out, `<int>[replicas]`.
    """
    finite = np.isfinite(sums.loss)
    counted = jax.tree.map(lambda term: np.where(finite, term, 0.0), sums)
    num_steps = np.atleast_1d(finite.sum(0))
    return mean_terms(counted, num_steps * batch_size), len(finite) - num_steps


def mean_and_std(rows: Sequence[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Computes each field's mean over replicas and sample standard deviation (0 of one row)."""
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    ddof = 1 if len(rows) > 1 else 0
    return (
        {name: float(values.mean()) for name, values in table.items()},
        {name: float(values.std(ddof=ddof)) for name, values in table.items()},
    )


def combine(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Combines the replicas' rows: the only one, or their means, then the `STD_COLUMNS`."""
    if len(rows) == 1:
        return rows[0]
    mean, std = mean_and_std(rows)
    mean |= {name: rows[0][name] for name in ("epoch", "step")}  # whole numbers
    return mean | {column: std[column.removesuffix("_std")] for column in STD_COLUMNS}


def _format(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, float]]:
    """Reads the rows of a `metrics.csv`.

    Raises:
      UserError: it cannot be read, or does not hold numbers in every column.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{column: float(value) for column, value in row.items()} for row in rows]
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
        columns: Sequence[str],
    ):
        """Opens the files.

        Args:
          folders: each replica's.
          workdir: the run's; the same as the one replica's.
          previous_rows: for each epoch so far, each replica's row.
          columns: of each row.
        """
        with contextlib.ExitStack() as stack:
            self._each = [
                stack.enter_context(
                    MetricsWriter(folder, [rows[i] for rows in previous_rows], columns)
                )
                for i, folder in enumerate(folders)
            ]
            if len(folders) > 1:
                means = [combine(rows) for rows in previous_rows]
                writer = MetricsWriter(workdir, means, (*columns, *STD_COLUMNS))
                self._mean = stack.enter_context(writer)
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


class MetricsWriter:
    """Writes a row an epoch to `metrics.csv` and to a TensorBoard events file.

    Use as a context manager. What `metrics.csv` held before is replaced by the rows given.
    """

    def __init__(
        self,
        workdir: Path,
        rows: Sequence[dict[str, float]] = (),
        columns: Sequence[str] = COLUMNS,
    ):
        """Opens both files in `workdir`, to go on after `rows`."""
        # Not at import: it is slow. And this class, whose `SummaryWriter` writes in a thread:
        # when the disk is full, that thread dies and its queue blocks for ever.
        from tensorboardX.event_file_writer import EventsWriter

        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / "metrics.csv"
        self._columns = columns
        self._rows = list(rows)
        self._write_csv()
        self._events_path = workdir / "events.out.tfevents"
        with errors_that_name(self._events_path):
            # The class puts the second in the file's name, in which a second file may be opened.
            self._events = EventsWriter(str(workdir / "events"), f".{time.time_ns()}")
            if rows:
                self._purge_after(int(rows[-1]["step"]))

    def _write_csv(self) -> None:
        write_atomically(self._path, _format(self._rows, self._columns))

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
            Summary.Value(tag=name.replace("_", "/", 1), simple_value=row[name])
            for name in self._columns[2:]
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
