"""The report's page, as HTML and as Markdown: tables, plots and templates put together."""

import base64
import dataclasses
import itertools
import os
import re
import shlex
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import ml_collections
import numpy as np

from vae_jax.configuration import flatten
from vae_jax.evaluation import plots
from vae_jax.reporting.claims import CLAIMS, judge
from vae_jax.reporting.runs import Group, Model, Run, comparable_groups, epochs_to
from vae_jax.runtime.errors import UserError, describe
from vae_jax.training import metrics
from vae_jax.training.run_directory import NOT_PART_OF_IDENTITY

EXPLORER_NAME = "explorer.html"
_TEMPLATES = Path(__file__).parent / "templates"
_PLOTS = {
    "reconstructions": "Test images and their reconstructions",
    "classes": "The same latents in every class",
    "samples": "Samples from random latents",
    "interpolation": "From one test image to another",
    "latent_map": "Latent means of test images",
    "manifold": "The latent plane",
}
_TERMS = ("loss", "reconstruction", "kl")
# The last ten epochs of the log published with the reference project: means, nats per image.
_REFERENCE_LOG = {"loss": 111.03, "reconstruction": 87.01, "kl": 24.02}
_REFERENCE_STANDARD_ERROR = 0.6
_REFERENCE_EPOCHS = 10
_NOT_MEASURED = "-"
# What means something in a line of Markdown; an underscore within a word does not.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$]|(?<!\w)_|_(?!\w)")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      title: above it.
      part: the part of a model's measures that has its number.
      value: from that part to the number; None where it was not measured.
      format: how it is written.
      best: which number is the best, `min` or `max`; None where neither is.
    """

    title: str
    part: Callable[[Model], Any]
    value: Callable[[Any], float | None]
    format: str = ".2f"
    best: Callable[..., float] | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table's cell; the best of its column is marked."""

    text: str
    is_best: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Titles, and rows of cells below them; the first of each row is its name."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def _epochs_to_one_nat(model: Model) -> int | None:
    losses = model.validation_losses()
    return epochs_to(losses, losses.min() + 1.0)


_LOSS_COLUMNS = (
    Column("test loss", Model.summary, lambda s: s.test["loss"], best=min),
    Column("reconstruction", Model.summary, lambda s: s.test["reconstruction"]),
    Column("KL", Model.summary, lambda s: s.test["kl"]),
    Column("bits per dimension", Model.summary, lambda s: s.test_bits_per_dimension, ".3f", min),
    Column("validation loss", Model.summary, lambda s: s.validation["loss"], best=min),
    Column("best epoch", Model.summary, lambda s: s.best_epoch, ".0f"),
    Column("epochs to within 1 nat", _epochs_to_one_nat, float, ".0f", best=min),
    Column("parameters", Model.summary, lambda s: s.parameters, ",.0f"),
    Column("active units", Model.latents, lambda z: z.active_units, ".0f"),
    Column("linear probe", Model.latents, lambda z: z.probe_accuracy, ".1%", best=max),
)
_ELBO_COLUMNS = (
    Column("test negative ELBO", Model.summary, lambda s: _negative_elbo(s.test), best=min),
    Column(
        "validation negative ELBO", Model.summary, lambda s: _negative_elbo(s.validation), best=min
    ),
)


def _negative_elbo(terms: Mapping[str, float]) -> float:
    return terms["reconstruction"] + terms["kl"]


def _loss_columns(groups: Sequence[Group]) -> tuple[Column, ...]:
    """Lists the columns of losses; where these are of several objectives, the ELBO has the bold."""
    losses = (group.runs[0].config.loss for group in groups)
    if len({(loss.kl_weight, loss.num_importance_samples) for loss in losses}) < 2:
        return _LOSS_COLUMNS
    of_objectives = ("test loss", "validation loss")
    others = (
        dataclasses.replace(c, best=None) if c.title in of_objectives else c for c in _LOSS_COLUMNS
    )
    return (*_ELBO_COLUMNS, *others)


_LIKELIHOOD_COLUMNS = (
    Column("-log p(x)", Model.likelihood, lambda e: e.negative_log_likelihood, best=min),
    Column("bits per dimension", Model.likelihood, lambda e: e.bits_per_dimension, ".3f", best=min),
    Column("standard error", Model.likelihood, lambda e: e.standard_error),
    Column("negative ELBO", Model.likelihood, lambda e: e.negative_elbo, best=min),
    Column("gap", Model.likelihood, lambda e: e.gap),
    Column("samples", Model.likelihood, lambda e: e.num_importance_samples, ",.0f"),
    Column("effective", Model.likelihood, lambda e: e.effective_sample_size, ",.1f"),
)
_CONDITIONAL_COLUMNS = (
    Column("samples recognized", Model.conditional, lambda c: c.sample_accuracy, ".1%", max),
    Column(
        "in the worst class",
        Model.conditional,
        lambda c: min(c.sample_accuracies) if c.sample_accuracies else None,
        ".1%",
        max,
    ),
    Column("Bayes accuracy", Model.conditional, lambda c: c.bayes_accuracy, ".2%", max),
    Column("samples", Model.conditional, lambda c: c.num_importance_samples, ".0f"),
)
_RECONSTRUCTION_COLUMNS = (
    Column(
        "mean squared error", Model.reconstructions, lambda r: r.mean_squared_error, ".5f", best=min
    ),
    Column("sharpness", Model.reconstructions, lambda r: r.sharpness, ".3f", best=max),
    Column(
        "classifier accuracy",
        Model.reconstructions,
        lambda r: r.classifier_accuracy,
        ".1%",
        best=max,
    ),
    Column(
        "max/mean interpolation step",
        Model.interpolations,
        lambda i: i.max_mean_step_ratio,
        best=min,
    ),
    Column("interpolation confidence", Model.interpolations, lambda i: i.mean_confidence, best=max),
)


def _sample_columns(part: Callable[[Model], Any]) -> tuple[Column, ...]:
    """Lists the columns of samples, or of training images in their place."""
    return (
        Column("Fréchet distance", part, lambda s: s.frechet_distance, best=min),
        Column("precision", part, lambda s: s.precision, ".3f", best=max),
        Column("recall", part, lambda s: s.recall, ".3f", best=max),
        Column("density", part, lambda s: s.density, ".3f", best=max),
        Column("coverage", part, lambda s: s.coverage, ".3f", best=max),
        Column("digits present", part, lambda s: s.digits_present, ".0f"),
        Column("class KL", part, lambda s: s.class_kl, ".3f", best=min),
        Column("confidence", part, lambda s: s.mean_confidence, ".3f", best=max),
        Column("low confidence", part, lambda s: s.low_confidence_rate, ".1%", best=min),
        Column("blank", part, lambda s: s.blank_fraction, ".2%", best=min),
        Column("copies", part, lambda s: s.copy_fraction, ".2%"),
        Column("distance to training", part, lambda s: s.nearest_distance_ratio),
    )


def _column_cells(groups: Sequence[Group], column: Column) -> list[Cell]:
    """Writes a column's cell for each group; the best number is marked, unless all are alike.

    A number that is the same of all seeds, such as the parameters, has no standard deviation.
    """
    means = [group.mean(column.part, column.value) for group in groups]
    stds = [group.std(column.part, column.value) for group in groups]
    numbers = {mean for mean in means if mean is not None}
    best = column.best(numbers) if column.best and len(numbers) > 1 else None
    spec = column.format
    texts = [
        _NOT_MEASURED if mean is None else f"{mean:{spec}}" + (f" ± {std:{spec}}" if std else "")
        for mean, std in zip(means, stds, strict=True)
    ]
    return [
        Cell(text, best is not None and m == best) for text, m in zip(texts, means, strict=True)
    ]


def _table(groups: Sequence[Group], columns: Sequence[Column]) -> Table:
    """Makes a row for each configuration."""
    names = [Cell(group.name) for group in groups]
    cells = [names, *(_column_cells(groups, column) for column in columns)]
    header = ["configuration", *(column.title for column in columns)]
    return Table(header, [list(row) for row in zip(*cells, strict=True)])


def _measured_table(groups: Sequence[Group], columns: Sequence[Column]) -> Table:
    """Makes a row for each configuration, and a column for each number that any of them has."""
    return _table(groups, [column for column in columns if _is_measured(groups, column)])


def _is_measured(groups: Sequence[Group], column: Column) -> bool:
    return any(group.values(column.part, column.value) for group in groups)


def _likelihood_table(groups: Sequence[Group]) -> Table:
    measured = [g for g in groups if any(model.likelihood() for model in g.models)]
    return _measured_table(measured, _LIKELIHOOD_COLUMNS)


def _conditional_table(groups: Sequence[Group]) -> Table:
    measured = [g for g in groups if any(model.conditional() for model in g.models)]
    return _measured_table(measured, _CONDITIONAL_COLUMNS)


def _sample_table(groups: Sequence[Group]) -> Table:
    """Makes the samples' table; its first row has training images in the samples' place."""
    measured = [g for g in groups if any(model.samples() for model in g.models)]
    columns = _sample_columns(Model.samples)
    is_shown = [_is_measured(measured, column) for column in columns]
    table = _table(measured, [*itertools.compress(columns, is_shown)])
    if not measured:
        return table
    # One data set, one ceiling: its row is the first that was measured.
    with_ceiling = [g for g in measured if any(model.ceiling() for model in g.models)]
    first = (with_ceiling or measured)[:1]
    ceiling_columns = itertools.compress(_sample_columns(Model.ceiling), is_shown)
    [[_, *ceiling]] = _table(first, [*ceiling_columns]).rows
    return Table(table.header, [[Cell("training images (ceiling)"), *ceiling], *table.rows])


def _histogram_table(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        histograms = group.values(Model.samples, lambda s: s.class_fractions)
        if histograms:
            fractions = np.mean(histograms, axis=0)
            rows.append([Cell(group.name), *(Cell(f"{f:.1%}") for f in fractions)])
    return Table(["configuration", *map(str, range(10))], rows)


def _command(run: Run, configs_by_name: Mapping[str, ml_collections.ConfigDict]) -> str:
    """Writes the command that repeats a run: the closest configuration, and what differs."""
    workdir = shlex.quote(f"runs/{run.name}")
    if parent := run.directory.parent:
        prior = " ".join(
            f"--config.prior.{name}={value}" for name, value in run.config.prior.items()
        )
        parent = shlex.quote(str(parent))
        return f"python main.py --mode=fit_prior --workdir={parent} --output={workdir} {prior}"
    fields = flatten(run.config.to_dict())
    differing = {}
    for name, config in configs_by_name.items():
        named = flatten(config.to_dict())
        differing[name] = {
            path: value
            for path, value in fields.items()
            if path not in NOT_PART_OF_IDENTITY and value != named.get(path)
        }
    name = min(differing, key=lambda name: len(differing[name]))
    overrides = [
        f'--config.{path}="{value}"' if isinstance(value, tuple) else f"--config.{path}={value}"
        for path, value in differing[name].items()
    ]
    command = f"python main.py --config=configs/{name}.py --workdir={workdir}"
    return " ".join([command, *overrides])


def _provenance_cells(
    run: Run, configs_by_name: Mapping[str, ml_collections.ConfigDict]
) -> list[Cell]:
    """Writes how a run was made: command, device, versions, commit, time."""
    record = run.directory.record
    seconds = max(model.losses.training_seconds for model in run.models)
    versions = ", ".join(f"{n} {v}" for n, v in record.get("versions", {}).items())
    device = f"{record.get('device_count', 1)} x {record.get('device_kind')}"
    commit = (record.get("git_commit") or "unknown")[:7]
    command = _command(run, configs_by_name)
    texts = [command, device, versions, commit, f"{seconds / 3600:.1f} h"]
    return [Cell(text) for text in texts]


def _reference_table(group: Group | None) -> Table | None:
    """Puts the reference project's log beside ours: training batches, the last ten epochs."""
    if group is None:
        return None
    ours = {t: group.curve(f"train_{t}")[-_REFERENCE_EPOCHS:].mean() for t in _TERMS}
    rows = [
        ["the reference project's log", *(f"{value:.2f}" for value in _REFERENCE_LOG.values())],
        [group.name, *(f"{mean:.2f}" for mean in ours.values())],
        ["difference", *(f"{ours[t] - value:+.2f}" for t, value in _REFERENCE_LOG.items())],
    ]
    header = ["", "total", "reconstruction", "KL"]
    return Table(header, [[Cell(text) for text in row] for row in rows])


def _latent_size_lines(groups: Sequence[Group]) -> dict[str, list[plots.LatentSizePoint]]:
    """Finds groups that differ in the latent size alone, by the first's name."""
    alike: dict[str, list[Group]] = {}
    for group in groups:
        fields = {p: v for p, v in group.runs[0].identity.items() if p != "latent_size"}
        alike.setdefault(str(sorted(fields.items())), []).append(group)
    lines = {}
    for members in alike.values():
        if len(members) > 1:
            points = [_latent_size_point(group) for group in members]
            lines[members[0].name] = sorted(points, key=lambda point: point.latent_size)
    return lines


def _latent_size_point(group: Group) -> plots.LatentSizePoint:
    tests = [{term: model.losses.test[term] for term in _TERMS} for model in group.models]
    means, stds = metrics.mean_and_std(tests)
    several = len(tests) > 1
    latent_size = group.runs[0].config.latent_size
    return plots.LatentSizePoint(latent_size, means, stds if several else dict.fromkeys(stds))


def _latent_size_table(lines: Mapping[str, Sequence[plots.LatentSizePoint]]) -> Table:
    rows = [
        [Cell(name), Cell(str(point.latent_size)), *(Cell(f"{point.means[t]:.2f}") for t in _TERMS)]
        for name, points in lines.items()
        for point in points
    ]
    header = ["configuration", "latent size", "test loss", "reconstruction", "KL"]
    return Table(header, rows)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _gallery(model: Model) -> list[dict[str, str]]:
    """Reads the plots of a model, ready to stand in a page."""
    folder = model.folder / "plots"
    paths = {name: folder / f"{name}.png" for name in _PLOTS}
    return [
        {"title": _PLOTS[name], "uri": _data_uri(path.read_bytes())}
        for name, path in paths.items()
        if path.exists()
    ]


def _explorers(group: Group, folder: Path) -> dict[str, str]:
    """Returns the addresses of a group's explorers, as seen from `folder`, by their models."""
    addresses = {}
    for model in group.models:
        path = model.folder / EXPLORER_NAME
        if path.exists():
            relative = os.fsencode(os.path.relpath(path, folder))
            addresses[f"{group.name}, seed {model.seed}"] = urllib.parse.quote(relative)
    return addresses


def _comparison(title: str, groups: Sequence[Group]) -> dict[str, Any]:
    """Puts together what the templates show of groups that can be compared."""
    lines = _latent_size_lines(groups)
    columns = [f"{split}_{term}" for split in ("train", "validation") for term in _TERMS]
    curves = [(group.name, {c: group.curve(c) for c in columns}) for group in groups]
    kl = {
        group.name: np.mean([sorted(values, reverse=True) for values in found], axis=0)
        for group in groups
        if (found := group.values(Model.latents, lambda z: z.kl_per_dimension))
    }
    features = {f for group in groups for f in group.values(Model.samples, lambda s: s.features)}
    return {
        "title": title,
        "losses": _measured_table(groups, _loss_columns(groups)),
        "likelihoods": _likelihood_table(groups),
        "conditional": _conditional_table(groups),
        "reconstructions": _measured_table(groups, _RECONSTRUCTION_COLUMNS),
        "samples": _sample_table(groups),
        "features": " and ".join(sorted(features)),
        "histogram": _histogram_table(groups),
        "latent_sizes": _latent_size_table(lines),
        "loss_curves": _data_uri(plots.overlay_loss_curves(curves)),
        "kl_per_dimension": _data_uri(plots.plot_kl_per_dimension(kl)) if kl else None,
        "latent_size_plot": _data_uri(plots.plot_latent_sizes(lines)) if lines else None,
    }


def _escape_markdown(text: str) -> str:
    """Writes a name so that Markdown shows it as it is, in a cell of a table too."""
    line = str(UserError(text))  # line breaks, and what no page shows, escaped
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", line.replace("&", "&amp;"))


def environment(is_html: bool) -> jinja2.Environment:
    """Returns where templates are found and how they are rendered."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=is_html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # HTML is escaped by itself.
    environment.filters["text"] = str if is_html else _escape_markdown
    return environment


@dataclasses.dataclass(frozen=True)
class RunContent:
    """What a page shows of one run alone.

    Attributes:
      gallery: plots of its first model.
      provenance: cells of its row, behind the name of its configuration.
    """

    gallery: list[dict[str, str]]
    provenance: list[Cell]


def describe_runs(
    runs: Sequence[Run], configs_by_name: Mapping[str, ml_collections.ConfigDict]
) -> tuple[dict[Path, RunContent], dict[Path, str]]:
    """Puts together what is shown of each run alone.

    Args:
      runs: complete runs.
      configs_by_name: the configurations in `configs/`.

    Returns:
      The content by run directory; and, for each run that cannot be shown, why.
    """
    contents, problems = {}, {}
    for run in runs:
        try:
            provenance = _provenance_cells(run, configs_by_name)
            contents[run.workdir] = RunContent(_gallery(run.models[0]), provenance)
        except Exception as error:  # whatever it is, the others are reported
            problems[run.workdir] = f"cannot be shown: {describe(error)}"
    return contents, problems


def describe_report(
    groups: Sequence[Group],
    contents: Mapping[Path, RunContent],
    skipped_runs: Mapping[Path, str],
    folder: Path,
) -> dict[str, Any]:
    """Puts together what the page shows, for `render`.

    Args:
      groups: what is reported.
      contents: of each of their runs, from `describe_runs`.
      skipped_runs: the runs that are not reported, or not wholly, and why.
      folder: where the page will be: what it links to is named from there.
    """
    by_name = {group.name: group for group in groups if group.is_named}
    provenance = [
        [Cell(group.name), *contents[run.workdir].provenance]
        for group in groups
        for run in group.runs
    ]
    header = ["configuration", "command", "device", "versions", "commit", "training"]
    return {
        "comparisons": [_comparison(title, alike) for title, alike in comparable_groups(groups)],
        "claims": [(claim, judge(claim, by_name)) for claim in CLAIMS],
        "reference": _reference_table(by_name.get("reference")),
        "reference_standard_error": _REFERENCE_STANDARD_ERROR,
        "provenance": Table(header, provenance),
        "num_models": {group.name: len(group.models) for group in groups},
        "galleries": [
            (group.name, contents[group.runs[0].workdir].gallery, _explorers(group, folder))
            for group in groups
        ],
        "skipped_runs": {str(folder): what for folder, what in skipped_runs.items()},
    }


def render(context: Mapping[str, Any], is_html: bool) -> str:
    """Renders the report as a self-contained HTML page, or as Markdown without images."""
    template = "report.html.j2" if is_html else "report.md.j2"
    return environment(is_html).get_template(template).render(context)
