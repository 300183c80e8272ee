"""The runs below a folder, read from their files and grouped by configuration and data."""

import dataclasses
import math
import os
import shlex
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from vae_jax.configuration import BINARY_LIKELIHOODS, flatten
from vae_jax.evaluation.measures import (
    EVALUATION_NAME,
    SUMMARY_NAME,
    Analysis,
    Evaluation,
    Summary,
    read_analysis,
)
from vae_jax.runtime.errors import UserError, describe
from vae_jax.runtime.files import read_record
from vae_jax.training import metrics
from vae_jax.training.run_directory import CONFIG_NAME, NOT_PART_OF_IDENTITY, RunDirectory

# Fields in which runs of one configuration may differ.
_NOT_COMPARED = ("seed", "train.num_replicas", *NOT_PART_OF_IDENTITY)

Configs = Mapping[str, ml_collections.ConfigDict]


@dataclasses.dataclass
class Model:
    """One trained model: a run's, or one of its replicas'.

    Attributes:
      folder: its files.
      seed: its seed.
      rows: of its `metrics.csv`, one for each epoch.
      summary: its `summary.json`.
      analysis: its `analysis.json`; None if it is missing or of another epoch.
      evaluation: its `evaluation.json`; None if it is missing or of another epoch.
    """

    folder: Path
    seed: int
    rows: list[dict[str, float]]
    summary: Summary
    analysis: Analysis | None
    evaluation: Evaluation | None

    @property
    def measures(self) -> dict[str, Any]:
        """Everything measured, by dotted name: `test.loss`, `samples.recall`; None if it is not."""
        measures: dict[str, Any] = {}
        for record in (self.summary, self.analysis, self.evaluation):
            measures |= flatten(dataclasses.asdict(record)) if record else {}
        for split in ("test", "validation"):
            terms = (measures[f"{split}.{term}"] for term in ("reconstruction", "kl"))
            measures[f"{split}.negative_elbo"] = sum(terms)
        losses = np.array([row["validation_loss"] for row in self.rows])
        measures["epochs_to_within_1_nat"] = epochs_to(losses, losses.min() + 1.0)
        if accuracies := measures.get("conditional.sample_accuracies"):
            measures["conditional.worst_accuracy"] = min(accuracies)
        return measures


@dataclasses.dataclass
class Run:
    """A run directory whose training is complete.

    Attributes:
      directory: the run directory.
      name: its path below the folder that was read.
      models: one for each seed.
      identity: the configuration by dotted path, without the fields that its runs may differ in.
      comparison: data set, pixels and likelihood, and the data's SHA-256: only losses of runs that
        agree in it can be compared.
      provenance: command, device, versions, commit and training time, as texts.
    """

    directory: RunDirectory
    name: str
    models: list[Model]
    identity: dict[str, Any]
    comparison: tuple[str, str]
    provenance: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one configuration on the same data.

    Attributes:
      name: of the configuration in `configs/`, else the first run's.
      runs: at least one; no two of their models have the same seed.
    """

    name: str
    runs: list[Run]

    @property
    def models(self) -> list[Model]:
        """All models of all runs."""
        return [model for run in self.runs for model in run.models]

    def values(self, measure: str) -> list[Any]:
        """Lists a measure, by dotted name, of the models that have it."""
        values = [model.measures.get(measure) for model in self.models]
        return [value for value in values if value is not None]

    def mean(self, measure: str) -> float | None:
        """Averages a measure over the models; None if none has it."""
        values = self.values(measure)
        return statistics.fmean(values) if values else None

    def std(self, measure: str) -> float | None:
        """Computes a measure's sample standard deviation; None for fewer than two models."""
        values = self.values(measure)
        return statistics.stdev(values) if len(values) > 1 else None

    def curve(self, column: str) -> np.ndarray:
        """Averages a column of `metrics.csv` over the models, `<float>[epochs]`."""
        return np.mean([[row[column] for row in model.rows] for model in self.models], axis=0)


def epochs_to(curve: np.ndarray, target: float) -> int | None:
    """Finds the first epoch, from 1, at which a curve is at the target or below; None if none."""
    reached = np.flatnonzero(curve <= target)
    return int(reached[0]) + 1 if len(reached) else None


def read_groups(workdir: Path, configs: Configs) -> tuple[list[Group], dict[Path, str]]:
    """Reads every complete run below a folder, and groups them, named configurations first.

    Args:
      workdir: the folder.
      configs: configurations by name, in the order of the groups.

    Returns:
      The groups, and for each folder that was skipped the reason.
    """
    names = {_key(_identity(config)): name for name, config in configs.items()}
    groups: dict[str, Group] = {}
    problems = {}
    for folder in sorted(_folders(workdir)):
        name = folder.name if folder == workdir else str(folder.relative_to(workdir))
        try:
            run = _read_run(folder, name, configs)
        except Exception as error:  # the other runs are reported, whatever is wrong with this one
            problems[folder] = describe(error)
            continue
        name = names.get(_key(run.identity), run.name)
        group = groups.setdefault(_key(run.identity, run.comparison), Group(name, []))
        problems |= _drop_repeated_seeds(run, group)
        if run.models:
            group.runs.append(run)
    order = {name: place for place, name in enumerate(names.values())}
    return sorted(groups.values(), key=lambda g: order.get(g.name, len(order))), problems


def _key(identity: Mapping[str, Any], *more: Any) -> str:
    return str((sorted(identity.items()), *more))


def _drop_repeated_seeds(run: Run, group: Group) -> dict[Path, str]:
    """Removes the models whose seed is in the group; returns the reason by folder."""
    folders = {model.seed: model.folder for model in group.models}
    repeated = [model for model in run.models if model.seed in folders]
    run.models = [model for model in run.models if model.seed not in folders]
    return {
        model.folder: f"seed {model.seed} counts once: it is in {folders[model.seed]} already"
        for model in repeated
    }


def _folders(workdir: Path) -> Iterator[Path]:
    """Finds run directories, each once, also behind symbolic links and in loops of links."""
    seen = set()
    for path, subfolders, files in os.walk(workdir, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # Links last, so that a run beside a link to it has its own name.
        subfolders.sort(key=lambda name: os.path.islink(os.path.join(path, name)))
        if CONFIG_NAME in files:
            yield Path(path)


def _read_run(workdir: Path, name: str, configs: Configs) -> Run:
    """Reads a run directory.

    Raises:
      UserError: the run is not complete, or a file is damaged.
    """
    directory = RunDirectory.open(workdir)
    config, path = directory.config, workdir / SUMMARY_NAME
    summary = read_record(path, Summary) if path.exists() else None
    if summary is None or summary.epochs_trained < config.train.num_epochs:
        num_trained = len(metrics.read_rows(workdir / "metrics.csv"))
        raise UserError(f"{num_trained} of {config.train.num_epochs} epochs")
    models = [
        _read_model(folder, config.seed + index)
        for index, folder in enumerate(directory.replica_folders)
    ]
    identity = _identity(config)
    if directory.parent:  # a prior fitted afterwards is not one trained with the model
        identity["prior_fitted"] = True
    comparison = _title(directory), str(directory.record.get("data_sha256", "unknown"))
    record = directory.record
    provenance = {
        "command": _command(directory, name, configs),
        "device": f"{record.get('device_count', 1)} x {record.get('device_kind')}",
        "versions": ", ".join(f"{n} {v}" for n, v in record.get("versions", {}).items()),
        "commit": (record.get("git_commit") or "unknown")[:7],
        "training": f"{max(m.summary.training_seconds for m in models) / 3600:.1f} h",
    }
    return Run(directory, name, models, identity, comparison, provenance)


def _read_model(folder: Path, seed: int) -> Model:
    """Reads a model's records.

    Raises:
      UserError: a file is damaged, or its curves have gaps.
    """
    summary = read_record(folder / SUMMARY_NAME, Summary)
    path = folder / EVALUATION_NAME
    evaluation = read_record(path, Evaluation) if path.exists() else None
    if evaluation and evaluation.best_step != summary.best_step:
        evaluation = None
    rows = metrics.read_rows(folder / "metrics.csv")
    numbers = [row.get(column, math.nan) for row in rows for column in metrics.COLUMNS]
    if len(rows) != summary.epochs_trained or not np.isfinite(numbers).all():
        raise UserError(f"{folder / 'metrics.csv'}: epochs are missing or not finite")
    analysis = read_analysis(folder, summary.best_step)
    return Model(folder, seed, rows, summary, analysis, evaluation)


def _identity(config: ml_collections.ConfigDict) -> dict[str, Any]:
    fields = flatten(config.to_dict())
    return {path: value for path, value in fields.items() if path not in _NOT_COMPARED}


def _title(directory: RunDirectory) -> str:
    """Names the data set, its pixels, and the likelihood unless it is one of binary pixels."""
    config, record = directory.config, directory.record
    data, kind = config.data, config.likelihood.kind
    is_color = "image_shape" in record and directory.spec.image_shape[-1] > 1
    pixels = "color" if is_color else "gray"  # older records have no shape: they are gray
    if data.binarization != "none":
        pixels = "binarized"
    parts = [Path(data.path).name if data.name == "images" else data.name, f"{pixels} pixels"]
    if kind not in BINARY_LIKELIHOODS:
        parts.append(kind.replace("_", " "))
    if config.condition.kind == "label":
        parts.append("given the label")
    return ", ".join(parts)


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
            for path, value in (fields.items() - flatten(config.to_dict()).items())
            if path not in NOT_PART_OF_IDENTITY
        }
        for config_name, config in configs.items()
    }
    closest = min(differing, key=lambda config_name: len(differing[config_name]))
    overrides = [
        f'--config.{path}="{value}"' if isinstance(value, tuple) else f"--config.{path}={value}"
        for path, value in sorted(differing[closest].items())
    ]
    command = f"python main.py --config=configs/{closest}.py --workdir={workdir}"
    return " ".join([command, *overrides])
