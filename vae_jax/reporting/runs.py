"""The runs below a folder, read from their files and grouped by configuration and data."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from vae_jax.configuration import flatten
from vae_jax.evaluation.measures import (
    ANALYSIS_NAME,
    ANALYSIS_VERSION,
    EVALUATION_NAME,
    SUMMARY_NAME,
    Analysis,
    Evaluation,
    Summary,
)
from vae_jax.runtime.errors import UserError, describe
from vae_jax.runtime.files import Record, read_json, read_record, to_record
from vae_jax.training import metrics
from vae_jax.training.run_directory import CONFIG_NAME, NOT_PART_OF_IDENTITY, RunDirectory

# Fields in which runs of one configuration may differ.
_NOT_COMPARED = ("seed", "train.num_replicas", *NOT_PART_OF_IDENTITY)

Configs = Mapping[str, ml_collections.ConfigDict]


@dataclasses.dataclass
class Model:
    """One trained model: a run's, or one of its replicas'."""

    folder: Path  # of its files
    seed: int
    curves: dict[str, np.ndarray]  # the columns that every `metrics.csv` has, `<float>[epochs]`
    summary: Summary
    # None if the file is missing or of another epoch.
    analysis: Analysis | None
    evaluation: Evaluation | None

    @property
    def measures(self) -> dict[str, Any]:
        """Everything measured, by dotted name: `test.loss`, `samples.recall`; None if it is not."""
        measures: dict[str, Any] = {}
        for record in (self.summary, self.analysis, self.evaluation):
            measures |= flatten(dataclasses.asdict(record)) if record else {}
        # The loss itself has a weight of the KL, or several samples, in some runs.
        measures["test.negative_elbo"] = measures["test.reconstruction"] + measures["test.kl"]
        losses = self.curves["validation_loss"]
        measures["epochs_to_within_1_nat"] = first_epoch(losses, losses.min() + 1.0)
        return measures


@dataclasses.dataclass
class Run:
    """A run directory whose training is complete."""

    directory: RunDirectory
    models: list[Model]  # one for each seed
    identity: str  # the configuration, without the fields that its runs may differ in
    comparison: str  # of the data and the likelihood: only runs that agree in it can be compared
    provenance: dict[str, str]  # command, device, version of JAX, commit and training time


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one configuration on the same data."""

    name: str  # of the configuration in `configs/`, else the first run's
    runs: list[Run]  # at least one

    @property
    def models(self) -> list[Model]:
        """One model for each seed: of copies of a run, the last."""
        return [*{model.seed: model for run in self.runs for model in run.models}.values()]

    def values(self, measure: str) -> list[Any]:
        """Lists a measure, by dotted name, of the models that have it."""
        values = [model.measures.get(measure) for model in self.models]
        return [value for value in values if value is not None]

    def curve(self, column: str) -> np.ndarray:
        """Averages a column of `metrics.csv` over the models, `<float>[epochs]`."""
        return np.mean([model.curves[column] for model in self.models], axis=0)


def first_epoch(curve: np.ndarray, target: float) -> int | None:
    """Finds the first epoch, from 1, at which a curve is at the target or below; None if none."""
    reached = np.flatnonzero(curve <= target)
    return int(reached[0]) + 1 if len(reached) else None


def read_groups(workdir: Path, configs: Configs) -> tuple[list[Group], dict[Path, str]]:
    """Reads every complete run below a folder, and groups them, named configurations first.

    Returns:
      The groups, in the order of the configurations by name, and for each folder that was skipped
      the reason.
    """
    names = {_identity(config): name for name, config in configs.items()}
    groups: dict[str, Group] = {}
    problems = {}
    for folder in sorted(path.parent for path in workdir.rglob(CONFIG_NAME)):
        name = folder.name if folder == workdir else str(folder.relative_to(workdir))
        try:
            run = _read_run(folder, name, configs)
        except Exception as error:  # the other runs are reported, whatever is wrong with this one
            problems[folder] = describe(error)
            continue
        group = Group(names.get(run.identity, name), [])
        groups.setdefault(run.identity + run.comparison, group).runs.append(run)
    order = {name: place for place, name in enumerate(names.values())}
    return sorted(groups.values(), key=lambda g: order.get(g.name, len(order))), problems


def _read_run(workdir: Path, name: str, configs: Configs) -> Run:
    """Reads a run directory; raises UserError if it is not complete, or a file is damaged."""
    directory = RunDirectory.open(workdir)
    config, record, path = directory.config, directory.record, workdir / SUMMARY_NAME
    summary = read_record(path, Summary) if path.exists() else None
    if summary is None or summary.epochs_trained < config.train.num_epochs:
        num_trained = len(metrics.read_rows(workdir / "metrics.csv"))
        raise UserError(f"{num_trained} of {config.train.num_epochs} epochs")
    models = [
        _read_model(folder, config.seed + index)
        for index, folder in enumerate(directory.replica_folders)
    ]
    # A prior fitted afterwards is not one trained with the model.
    identity = _identity(config) + (" prior fitted" if directory.parent else "")
    provenance = {
        "command": _command(directory, name, configs),
        "device": f"{record.get('device_count', 1)} x {record.get('device_kind')}",
        "JAX": str(record.get("versions", {}).get("jax")),
        "commit": (record.get("git_commit") or "unknown")[:7],
        "training": f"{max(m.summary.training_seconds for m in models) / 3600:.1f} h",
    }
    return Run(directory, models, identity, _comparison(directory), provenance)


def _read_model(folder: Path, seed: int) -> Model:
    """Reads a model's records; raises UserError if a file is damaged, or epochs are missing."""
    summary = read_record(folder / SUMMARY_NAME, Summary)
    rows = metrics.read_rows(folder / "metrics.csv")
    if len(rows) != summary.epochs_trained:
        raise UserError(f"{folder / 'metrics.csv'}: epochs are missing")
    curves = {column: np.array([row[column] for row in rows]) for column in metrics.COLUMNS}
    step = summary.best_step
    analysis = _read_current(
        folder / ANALYSIS_NAME, Analysis, best_step=step, version=ANALYSIS_VERSION
    )
    evaluation = _read_current(folder / EVALUATION_NAME, Evaluation, best_step=step)
    return Model(folder, seed, curves, summary, analysis, evaluation)


def _read_current(path: Path, record_type: type[Record], **current: int) -> Record | None:
    """Reads a record; None if the file is missing, or one of its fields has another value."""
    value = read_json(path) if path.exists() else {}
    is_current = value.items() >= current.items()
    return to_record(path, value, record_type) if is_current else None


def _identity(config: ml_collections.ConfigDict) -> str:
    fields = sorted(flatten(config.to_dict()).items())
    return str([field for field in fields if field[0] not in _NOT_COMPARED])


def _comparison(directory: RunDirectory) -> str:
    """Names the data set, its binarization, the likelihood and the hash of the data."""
    config = directory.config
    parts = [Path(config.data.path).name if config.data.name == "images" else config.data.name]
    if config.data.binarization != "none":
        parts.append("binarized")
    parts.append(config.likelihood.kind.replace("_", " "))
    if config.condition.kind == "label":
        parts.append("given the label")
    return f"{', '.join(parts)} (data {str(directory.record.get('data_sha256'))[:8]})"


def _command(directory: RunDirectory, name: str, configs: Configs) -> str:
    """Writes the command that repeats a run: the closest configuration, and what differs."""
    workdir = shlex.quote(f"runs/{name}")
    if directory.parent:
        parent = shlex.quote(str(directory.parent))
        prior = " ".join(f"--config.prior.{n}={v}" for n, v in directory.config.prior.items())
        return f"python main.py --mode=fit_prior --workdir={parent} --output={workdir} {prior}"
    fields = flatten(directory.config.to_dict())
    differing = {
        config_name: {
            path: value
            for path, value in sorted(fields.items() - flatten(config.to_dict()).items())
            if path not in NOT_PART_OF_IDENTITY
        }
        for config_name, config in configs.items()
    }
    closest = min(differing, key=lambda config_name: len(differing[config_name]))
    overrides = [shlex.quote(f"--config.{path}={v}") for path, v in differing[closest].items()]
    return " ".join(
        ["python main.py", f"--config=configs/{closest}.py", f"--workdir={workdir}", *overrides]
    )
