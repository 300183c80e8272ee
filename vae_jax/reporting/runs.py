"""The runs below a folder, as their files tell: read, judged complete or not, grouped."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.reporting.analysis import held
from vae_jax.runtime.errors import UserError
from vae_jax.training import metrics, run_directory

# What two runs may differ in and still be of one configuration.
_NOT_COMPARED = ("seed", "train.num_replicas", *run_directory.FREE_FIELDS)


@dataclasses.dataclass(frozen=True)
class Model:
    """One trained model: a run's, or one replica's of several.

    Attributes:
      folder: where its files are.
      seed: its seed.
      rows: of its `metrics.csv`.
      values: its `summary.json` as "summary"; its `analysis.json` and `evaluation.json` as
        "analysis" and "evaluation", where they are there and of the same epoch; as "convergence"
        how many epochs it took to come within a nat of its best validation loss,
        "epochs_to_one_nat".
    """

    folder: Path
    seed: int
    rows: Sequence[Mapping[str, float]]
    values: Mapping[str, Any]

    def value(self, path: str) -> Any:
        """What the files hold at a dotted path, e.g. "summary.test.loss"; None if nothing."""
        found: Any = self.values
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory whose training is complete.

    Attributes:
      workdir: the run directory.
      name: its path below the folder that was read.
      record: its `config.json`.
      models: one for each seed.
    """

    workdir: Path
    name: str
    record: Mapping[str, Any]
    models: Sequence[Model]

    @property
    def fields(self) -> dict[str, Any]:
        """The configuration by dotted path, without what runs of one configuration differ in."""
        return comparable_fields(self.record["config"])


def comparable_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by dotted path, without the seeds and the places of the data."""
    fields = run_directory.flatten(dict(config))
    return {path: value for path, value in fields.items() if path not in _NOT_COMPARED}


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one configuration.

    Attributes:
      name: of the configuration in `configs/`, else the first run's folder.
      fields: the configuration, as `comparable_fields` gives it.
      runs: at least one.
      is_named: whether the name is a configuration's.
    """

    name: str
    fields: Mapping[str, Any]
    runs: Sequence[Run]
    is_named: bool

    @property
    def models(self) -> list[Model]:
        """All models of all runs."""
        return [model for run in self.runs for model in run.models]

    def values(self, path: str) -> list[Any]:
        """What the models that have it hold at a dotted path."""
        found = (model.value(path) for model in self.models)
        return [value for value in found if value is not None]

    def mean(self, path: str) -> float | None:
        """The mean over the models of a number; None where none has it."""
        values = self.values(path)
        return statistics.fmean(values) if values else None

    def std(self, path: str) -> float | None:
        """The sample standard deviation over the models; None of fewer than two."""
        values = self.values(path)
        return statistics.stdev(values) if len(values) > 1 else None

    def curve(self, column: str) -> np.ndarray:
        """A column of the metrics by epoch, averaged over the models."""
        return np.mean([[row[column] for row in model.rows] for model in self.models], axis=0)


def epochs_to(curve: np.ndarray, target: float) -> int | None:
    """The first epoch, from 1, at which a curve is at the target or below; None if none is."""
    reached = np.flatnonzero(curve <= target)
    return int(reached[0]) + 1 if len(reached) else None


def _folders(workdir: Path) -> Iterator[Path]:
    for path in sorted(workdir.rglob("config.json")):
        yield path.parent


def _read_model(folder: Path, seed: int) -> Model:
    summary = run_directory.read_json(folder / "summary.json")
    rows = metrics.read_rows(folder / "metrics.csv")
    losses = np.array([row["validation_loss"] for row in rows])
    epochs = epochs_to(losses, losses.min() + 1.0)
    values = {"summary": summary, "convergence": {"epochs_to_one_nat": epochs}}
    if analysis := held(folder, summary["best_step"]):
        values["analysis"] = analysis
    if (folder / "evaluation.json").exists():
        evaluation = run_directory.read_json(folder / "evaluation.json")
        if evaluation["best_step"] == summary["best_step"]:
            values["evaluation"] = evaluation
    return Model(folder, seed, rows, values)


def _read_run(workdir: Path, name: str) -> Run | str:
    """Reads a run directory; of one that is not complete, says how far it is.

    Raises:
      UserError: a file is damaged.
    """
    record = run_directory.held_record(workdir)
    config = record["config"]
    try:
        seed, train = config["seed"], config["train"]
        if not (workdir / "summary.json").exists():
            rows = metrics.read_rows(workdir / "metrics.csv")
            return f"{len(rows)} of {train['num_epochs']} epochs"
        summary = run_directory.read_json(workdir / "summary.json")
        if summary["epochs_trained"] < train["num_epochs"]:
            return f"{summary['epochs_trained']} of {train['num_epochs']} epochs"
        folders = run_directory.replica_folders(workdir, seed, train["num_replicas"])
        models = [_read_model(folder, seed + index) for index, folder in enumerate(folders)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{workdir}: its files lack what a run has ({error!r})") from error
    return Run(workdir, name, record, models)


def read_runs(workdir: Path) -> tuple[list[Run], dict[Path, str]]:
    """Reads every run below a folder.

    Returns:
      The complete runs, and for each other one what is with it.
    """
    complete, others = [], {}
    for folder in _folders(workdir):
        name = folder.name if folder == workdir else str(folder.relative_to(workdir))
        try:
            run = _read_run(folder, name)
        except UserError as error:
            others[folder] = str(error)
            continue
        if isinstance(run, Run):
            complete.append(run)
        else:
            others[folder] = run
    return complete, others


def group(runs: Sequence[Run], named: Mapping[str, Mapping[str, Any]]) -> list[Group]:
    """Puts runs of one configuration together, those of named configurations first.

    Args:
      runs: complete runs.
      named: configurations by name, in the order wanted.
    """
    names = {name: comparable_fields(config) for name, config in named.items()}
    found: list[list[Run]] = []
    for run in runs:
        same = (alike for alike in found if alike[0].fields == run.fields)
        if alike := next(same, None):
            alike.append(run)
        else:
            found.append([run])
    groups = []
    for alike in found:
        fields = alike[0].fields
        name = next((name for name, held in names.items() if held == fields), None)
        groups.append(Group(name or alike[0].name, fields, alike, name is not None))
    order = [*names]
    return sorted(groups, key=lambda g: order.index(g.name) if g.is_named else len(order))
