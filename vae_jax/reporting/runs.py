"""The runs below a folder, as their files tell: read, judged complete or not, grouped."""

import dataclasses
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ml_collections
import numpy as np

from vae_jax.configuration import BINARY_LIKELIHOODS, flatten
from vae_jax.evaluation.measures import (
    ANALYSIS_NAME,
    EVALUATION_NAME,
    SUMMARY_NAME,
    Analysis,
    ConditionalMeasures,
    Evaluation,
    InterpolationMeasures,
    LatentMeasures,
    LikelihoodMeasures,
    ReconstructionMeasures,
    SampleMeasures,
    Summary,
    read_analysis,
)
from vae_jax.runtime.errors import UserError, describe
from vae_jax.runtime.files import read_record
from vae_jax.training import metrics, run_directory
from vae_jax.training.run_directory import CONFIG_NAME, RunDirectory

# What two runs may differ in and still be of one configuration.
_NOT_COMPARED = ("seed", "train.num_replicas", *run_directory.NOT_PART_OF_IDENTITY)

_NUM_DIGITS = 10

Part = TypeVar("Part")
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Model:
    """One trained model: a run's, or one replica's of several.

    Its methods return parts of what was measured, None where it was not.

    Attributes:
      folder: where its files are.
      seed: its seed.
      rows: of its `metrics.csv`.
      losses: its `summary.json`.
      analysis: its `analysis.json`, where there is one of the same epoch.
      evaluation: its `evaluation.json`, where there is one of the same epoch.
    """

    folder: Path
    seed: int
    rows: Sequence[Mapping[str, float]]
    losses: Summary
    analysis: Analysis | None
    evaluation: Evaluation | None

    def summary(self) -> Summary:
        """Returns the losses at the best epoch."""
        return self.losses

    def latents(self) -> LatentMeasures | None:
        """Returns the measures of the latent means."""
        return self.analysis and self.analysis.latents

    def reconstructions(self) -> ReconstructionMeasures | None:
        """Returns the measures of the reconstructions."""
        return self.analysis and self.analysis.reconstructions

    def interpolations(self) -> InterpolationMeasures | None:
        """Returns the measures of the interpolations."""
        return self.analysis and self.analysis.interpolations

    def samples(self) -> SampleMeasures | None:
        """Returns the measures of the samples."""
        return self.analysis and self.analysis.samples

    def ceiling(self) -> SampleMeasures | None:
        """Returns the measures of training images in the samples' place."""
        return self.analysis and self.analysis.ceiling

    def likelihood(self) -> LikelihoodMeasures | None:
        """Returns the estimate of log p(x)."""
        return self.evaluation and self.evaluation.likelihood

    def conditional(self) -> ConditionalMeasures | None:
        """Returns the measures of a conditional model."""
        return self.evaluation and self.evaluation.conditional

    def validation_losses(self) -> np.ndarray:
        """Returns the validation loss after each epoch."""
        return np.array([row["validation_loss"] for row in self.rows])


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory whose training is complete.

    Attributes:
      directory: the run directory.
      name: its path below the folder that was read.
      models: one for each seed.
    """

    directory: RunDirectory
    name: str
    models: Sequence[Model]

    @property
    def workdir(self) -> Path:
        """The folder."""
        return self.directory.path

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The recorded configuration."""
        return self.directory.config

    @property
    def identity(self) -> dict[str, Any]:
        """The configuration by dotted path, without what runs of one configuration differ in."""
        # A prior that was fitted afterwards is another than one that was trained along.
        fitted = {"prior_fitted": True} if self.directory.parent else {}
        return identity(self.config) | fitted

    @property
    def comparison(self) -> tuple[str, str | None]:
        """What has to be alike for losses to be compared: what they are of, the data's SHA-256."""
        return f"{self._data_name()}, {self._pixels()}", self.directory.record.get("data_sha256")

    def _data_name(self) -> str:
        """Names the data set; own images by their folder or file."""
        data = self.config.data
        return Path(data.path).name if data.name == "images" else data.name

    def _pixels(self) -> str:
        """Says how pixels are seen, by which likelihood unless it is one of binary pixels."""
        kind = self.config.likelihood.kind
        likelihood = "" if kind in BINARY_LIKELIHOODS else f", {kind.replace('_', ' ')}"
        if self.config.condition.kind == "label":
            likelihood += ", given the label"
        if self.config.data.binarization != "none":
            return f"binarized pixels{likelihood}"
        # Older records have no shape: their images are gray.
        is_color = (
            "image_shape" in self.directory.record and self.directory.spec.image_shape[-1] > 1
        )
        return f"{'color' if is_color else 'gray'} pixels{likelihood}"


def identity(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Flattens a configuration, without the seeds and the places of the data."""
    fields = flatten(config.to_dict())
    return {path: value for path, value in fields.items() if path not in _NOT_COMPARED}


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one configuration, on the same data.

    Attributes:
      name: of the configuration in `configs/`, else the first run's folder.
      runs: at least one.
      is_named: whether the name is a configuration's.
    """

    name: str
    runs: Sequence[Run]
    is_named: bool

    @property
    def models(self) -> list[Model]:
        """All models of all runs."""
        return [model for run in self.runs for model in run.models]

    def values(
        self, part: Callable[[Model], Part | None], value: Callable[[Part], Value | None]
    ) -> list[Value]:
        """Lists a value of the models of which that part was measured.

        Args:
          part: e.g. `Model.samples`.
          value: e.g. `lambda samples: samples.recall`.
        """
        parts = (measured for model in self.models if (measured := part(model)) is not None)
        return [found for measured in parts if (found := value(measured)) is not None]

    def mean(
        self, part: Callable[[Model], Part | None], value: Callable[[Part], float | None]
    ) -> float | None:
        """Averages a number over the models; None where none has it."""
        values = self.values(part, value)
        return statistics.fmean(values) if values else None

    def std(
        self, part: Callable[[Model], Part | None], value: Callable[[Part], float | None]
    ) -> float | None:
        """Computes a number's sample standard deviation; None of fewer than two models."""
        values = self.values(part, value)
        return statistics.stdev(values) if len(values) > 1 else None

    def curve(self, column: str) -> np.ndarray:
        """Averages a column of the metrics over the models, by epoch."""
        return np.mean([[row[column] for row in model.rows] for model in self.models], axis=0)


def epochs_to(curve: np.ndarray, target: float) -> int | None:
    """Finds the first epoch, from 1, at which a curve is at the target or below; None if none."""
    reached = np.flatnonzero(curve <= target)
    return int(reached[0]) + 1 if len(reached) else None


def _folders(workdir: Path) -> Iterator[Path]:
    """Finds run directories, behind symbolic links too: each once, in a loop of links as well."""
    seen, behind_links = set(), [workdir]
    while behind_links:
        for path, subfolders, files in os.walk(behind_links.pop(0)):
            folder = Path(path)
            if (real := folder.resolve()) in seen:
                subfolders.clear()
                continue
            seen.add(real)
            # Later, so that a run that is here too is called by its own name.
            behind_links += (folder / name for name in subfolders if (folder / name).is_symlink())
            if CONFIG_NAME in files:
                yield folder


def _read_rows(path: Path, num_epochs: int) -> list[dict[str, float]]:
    """Reads the rows of a run that is complete, of which curves are drawn and averaged.

    Raises:
      UserError: rows or columns are missing, or hold what is not finite.
    """
    rows = metrics.read_rows(path)
    if len(rows) != num_epochs:
        raise UserError(f"{path}: holds {len(rows)} of {num_epochs} epochs; the file is damaged")
    for row in rows:
        for column in metrics.COLUMNS:
            if not math.isfinite(row.get(column, math.nan)):
                raise UserError(f"{path}: {column} is missing or not finite; the file is damaged")
    return rows


def _read_analysis(folder: Path, best_step: int, latent_size: int) -> Analysis | None:
    """Reads a replica's analysis; None where there is none of that step.

    Raises:
      UserError: the file is damaged, or holds lists of other lengths than those of other seeds.
    """
    analysis = read_analysis(folder, best_step)
    kl = analysis and analysis.latents.kl_per_dimension
    fractions = analysis and analysis.samples and analysis.samples.class_fractions
    for name, values, length in (
        ("kl_per_dimension", kl, latent_size),
        ("class_fractions", fractions, _NUM_DIGITS),
    ):
        if values is not None and len(values) != length:
            raise UserError(
                f"{folder / ANALYSIS_NAME}: {name} has {len(values)} numbers, not {length}; the "
                "file is damaged: remove it to measure again"
            )
    return analysis


def _read_model(folder: Path, seed: int, latent_size: int) -> Model:
    summary = read_record(folder / SUMMARY_NAME, Summary)
    for term in metrics.TERMS:
        if term not in summary.test or term not in summary.validation:
            raise UserError(f"{folder / SUMMARY_NAME}: {term} is missing; the file is damaged")
    path = folder / EVALUATION_NAME
    evaluation = read_record(path, Evaluation) if path.exists() else None
    if evaluation and evaluation.best_step != summary.best_step:
        evaluation = None
    return Model(
        folder=folder,
        seed=seed,
        rows=_read_rows(folder / "metrics.csv", summary.epochs_trained),
        losses=summary,
        analysis=_read_analysis(folder, summary.best_step, latent_size),
        evaluation=evaluation,
    )


def _read_run(workdir: Path, name: str) -> Run | str:
    """Reads a run directory; of one that is not complete, says how far it is.

    Raises:
      UserError: a file is damaged.
    """
    directory = RunDirectory.open(workdir)
    config = directory.config
    num_epochs = config.train.num_epochs
    path = workdir / SUMMARY_NAME
    if not path.exists():
        return f"{len(metrics.read_rows(workdir / 'metrics.csv'))} of {num_epochs} epochs"
    summary = read_record(path, Summary)
    if summary.epochs_trained < num_epochs:
        return f"{summary.epochs_trained} of {num_epochs} epochs"
    models = [
        _read_model(folder, config.seed + index, config.latent_size)
        for index, folder in enumerate(directory.replica_folders)
    ]
    run = Run(directory, name, models)
    # Here, where it is this run's trouble alone: later, runs are told apart by it.
    if not isinstance(run.comparison[1], str | None):
        raise UserError(
            f"{workdir / CONFIG_NAME}: data_sha256 is not a string; the file is damaged"
        )
    return run


def read_runs(workdir: Path) -> tuple[list[Run], dict[Path, str]]:
    """Reads every run below a folder.

    Returns:
      The complete runs, and for each one that is skipped what is with it.
    """
    complete, skipped_runs = [], {}
    for folder in sorted(_folders(workdir)):
        name = folder.name if folder == workdir else str(folder.relative_to(workdir))
        try:
            run = _read_run(folder, name)
        except Exception as error:  # whatever it is, the others are reported
            skipped_runs[folder] = describe(error)
            continue
        if isinstance(run, Run):
            complete.append(run)
        else:
            skipped_runs[folder] = run
    return complete, skipped_runs


def drop_repeated_seeds(runs: Sequence[Run]) -> tuple[list[Run], dict[Path, str]]:
    """Drops models whose seed another run of that configuration and data has: copies of a run.

    Returns:
      The runs with what is left of their models, and for each model that is dropped why.
    """
    folders: dict[tuple[str, int], Path] = {}
    kept, repeated = [], {}
    for run in runs:
        alike = str((sorted(run.identity.items()), run.comparison))
        models = []
        for model in run.models:
            first = folders.setdefault((alike, model.seed), model.folder)
            if first is model.folder:
                models.append(model)
            else:
                repeated[model.folder] = f"seed {model.seed} counts once: it is in {first} already"
        if models:
            kept.append(dataclasses.replace(run, models=models))
    return kept, repeated


def group_runs(
    runs: Sequence[Run], configs_by_name: Mapping[str, ml_collections.ConfigDict]
) -> list[Group]:
    """Puts runs of one configuration on the same data together, named configurations first.

    Args:
      runs: complete runs.
      configs_by_name: named configurations, in the order wanted.
    """
    names = {name: identity(config) for name, config in configs_by_name.items()}
    grouped: list[list[Run]] = []
    for run in runs:
        key = (run.identity, run.comparison)
        alike = next(
            (each for each in grouped if (each[0].identity, each[0].comparison) == key), []
        )
        if not alike:
            grouped.append(alike)
        alike.append(run)
    groups = []
    for alike in grouped:
        name = next((name for name, fields in names.items() if fields == alike[0].identity), None)
        groups.append(Group(name or alike[0].name, alike, name is not None))
    order = [*names]
    return sorted(groups, key=lambda g: order.index(g.name) if g.is_named else len(order))


def comparable_groups(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Puts groups together that can be compared: same data, binarization and likelihood.

    Returns:
      A title and the groups of each such set.
    """
    comparisons: dict[tuple, list[Group]] = {}
    for group in groups:
        comparisons.setdefault(group.runs[0].comparison, []).append(group)
    titles = {key: key[0] for key in comparisons}
    shared = {title for title in titles.values() if [*titles.values()].count(title) > 1}
    for key, title in titles.items():
        if title in shared:
            titles[key] = f"{title}, data {(key[1] or 'unknown')[:8]}"
    return [(titles[key], alike) for key, alike in comparisons.items()]
