"""One report of all runs below a folder: `report.html`, self-contained, and `report.md`."""

import base64
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import ml_collections
import numpy as np
from tqdm import tqdm

from vae_jax import configuration
from vae_jax.evaluation import plots
from vae_jax.reporting import analysis, runs
from vae_jax.reporting.claims import OBSERVATIONS, judge
from vae_jax.reporting.runs import Group, Run
from vae_jax.runtime.errors import UserError
from vae_jax.training import run_directory

_TEMPLATES = Path(__file__).parent / "templates"
_FIGURES = {
    "reconstructions": "Test digits and their reconstructions",
    "samples": "Samples from random latents",
    "interpolation": "From one test digit to another",
    "latent_map": "Latent means of test digits",
    "manifold": "The latent plane",
}
# The last ten epochs of the log published with the original code: means, in nats per image.
_PUBLISHED = {"loss": 111.03, "reconstruction": 87.01, "kl": 24.02}
_PUBLISHED_STANDARD_ERROR = 0.6
_PUBLISHED_EPOCHS = 10


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: its title, where its number is, how it is written."""

    title: str
    path: str
    format: str = ".2f"


_LOSS_COLUMNS = (
    Column("test loss", "summary.test.loss"),
    Column("reconstruction", "summary.test.reconstruction"),
    Column("KL", "summary.test.kl"),
    Column("validation loss", "summary.validation.loss"),
    Column("best epoch", "summary.best_epoch", ".0f"),
    Column("epochs to within 1 nat", "convergence.epochs_to_one_nat", ".0f"),
    Column("parameters", "summary.parameters", ",.0f"),
    Column("active units", "analysis.latents.active_units", ".0f"),
    Column("linear probe", "analysis.latents.probe_accuracy", ".1%"),
)
_LIKELIHOOD_COLUMNS = (
    Column("-log p(x)", "negative_log_likelihood"),
    Column("standard error", "standard_error"),
    Column("negative ELBO", "negative_elbo"),
    Column("gap", "gap"),
    Column("samples", "num_importance_samples", ",.0f"),
    Column("effective", "effective_sample_size", ",.1f"),
)
_RECONSTRUCTION_COLUMNS = (
    Column("mean squared error", "analysis.reconstructions.mean_squared_error", ".5f"),
    Column("sharpness", "analysis.reconstructions.sharpness", ".3f"),
    Column("named rightly", "analysis.reconstructions.classifier_accuracy", ".1%"),
    Column("largest step on the way", "analysis.interpolations.largest_step", ".2f"),
    Column("confidence on the way", "analysis.interpolations.mean_confidence", ".2f"),
)
_SAMPLE_COLUMNS = (
    Column("Fréchet distance", "frechet_distance"),
    Column("precision", "precision", ".3f"),
    Column("recall", "recall", ".3f"),
    Column("density", "density", ".3f"),
    Column("coverage", "coverage", ".3f"),
    Column("digits present", "digits_present", ".0f"),
    Column("class KL", "class_kl", ".3f"),
    Column("confidence", "mean_confidence", ".3f"),
    Column("unsure", "unsure_share", ".1%"),
    Column("blank", "blank_share", ".2%"),
    Column("copies", "copy_share", ".2%"),
    Column("distance to training", "nearest_distance_ratio", ".2f"),
)


def _format(group: Group, path: str, spec: str) -> str:
    mean, std = group.mean(path), group.std(path)
    if mean is None:
        return "-"
    return f"{mean:{spec}}" + (f" ± {std:{spec}}" if std is not None else "")


def _table(groups: Sequence[Group], columns: Sequence[Column], prefix: str = "") -> dict[str, Any]:
    """Header and rows of strings: a row for each configuration."""
    rows = [
        [group.name, *(_format(group, prefix + column.path, column.format) for column in columns)]
        for group in groups
    ]
    return {"header": ["configuration", *(column.title for column in columns)], "rows": rows}


def _likelihood_table(groups: Sequence[Group]) -> dict[str, Any]:
    measured = [group for group in groups if group.values("evaluation.likelihood")]
    return _table(measured, _LIKELIHOOD_COLUMNS, "evaluation.likelihood.")


def _sample_table(groups: Sequence[Group]) -> dict[str, Any]:
    """The samples' measures, real digits' in the samples' place first."""
    measured = [group for group in groups if group.values("analysis.samples.num_samples")]
    table = _table(measured, _SAMPLE_COLUMNS, "analysis.samples.")
    if measured:
        # One data set, one ceiling: runs of others would have a row of their own.
        ceilings = _table(measured, _SAMPLE_COLUMNS, "analysis.ceiling.")["rows"]
        unique = list(dict.fromkeys(tuple(row[1:]) for row in ceilings))
        table["rows"] = [["real digits (ceiling)", *row] for row in unique] + table["rows"]
    return table


def _histogram_table(groups: Sequence[Group]) -> dict[str, Any]:
    rows = [
        [group.name, *(f"{sum(shares) / len(shares):.1%}" for shares in zip(*found, strict=True))]
        for group in groups
        if (found := group.values("analysis.samples.class_shares"))
    ]
    return {"header": ["configuration", *map(str, range(10))], "rows": rows}


def _command(run: Run, named: Mapping[str, Mapping[str, Any]]) -> str:
    """The command that repeats a run: the nearest configuration, and what differs from it."""
    fields = run_directory.flatten(run.record["config"])
    differing = {
        name: {
            path: value
            for path, value in fields.items()
            if path not in run_directory.FREE_FIELDS and value != held.get(path)
        }
        for name, held in ((n, run_directory.flatten(dict(c))) for n, c in named.items())
    }
    name = min(differing, key=lambda name: len(differing[name]))
    overrides = [
        f'--config.{path}="{value}"' if isinstance(value, tuple) else f"--config.{path}={value}"
        for path, value in differing[name].items()
    ]
    command = f"python main.py --config=configs/{name}.py --workdir=runs/{run.name}"
    return " ".join([command, *overrides])


def _provenance_table(
    groups: Sequence[Group], named: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    rows = []
    for group in groups:
        for run in group.runs:
            record = run.record
            seconds = max(model.value("summary.training_seconds") for model in run.models)
            versions = ", ".join(f"{n} {v}" for n, v in record.get("versions", {}).items())
            device = f"{record.get('device_count', 1)} x {record.get('device_kind')}"
            commit = (record.get("git_commit") or "unknown")[:7]
            hours = f"{seconds / 3600:.1f} h"
            rows.append([group.name, _command(run, named), device, versions, commit, hours])
    header = ["configuration", "command", "device", "versions", "commit", "training"]
    return {"header": header, "rows": rows}


def _published_table(group: Group | None) -> dict[str, Any] | None:
    """The original's log beside ours: training batches, dropout on, the last ten epochs."""
    if group is None:
        return None
    ours = {term: group.curve(f"train_{term}")[-_PUBLISHED_EPOCHS:] for term in _PUBLISHED}
    rows = [
        ["the original's log", *(f"{value:.2f}" for value in _PUBLISHED.values())],
        [group.name, *(f"{curve.mean():.2f}" for curve in ours.values())],
        ["difference", *(f"{ours[t].mean() - value:+.2f}" for t, value in _PUBLISHED.items())],
    ]
    return {"header": ["", "total", "reconstruction", "KL"], "rows": rows}


def _latent_size_lines(groups: Sequence[Group]) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Groups that differ in the latent size alone: sizes and test losses, by the first's name."""
    alike: dict[Any, list[Group]] = {}
    for group in groups:
        key = tuple(sorted((p, v) for p, v in group.fields.items() if p != "latent_size"))
        alike.setdefault(str(key), []).append(group)
    lines = {}
    for members in alike.values():
        if len(members) > 1:
            points = [
                (
                    group.fields["latent_size"],
                    {t: group.mean(f"summary.test.{t}") for t in _PUBLISHED}
                    | {f"{t}_std": group.std(f"summary.test.{t}") for t in _PUBLISHED},
                )
                for group in members
            ]
            lines[members[0].name] = sorted(points, key=lambda point: point[0])
    return lines


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _figures(group: Group) -> list[dict[str, str]]:
    """What the first model of a group drew, ready to stand in a page."""
    folder = group.models[0].folder / "figures"
    paths = {name: folder / f"{name}.png" for name in _FIGURES}
    return [
        {"title": _FIGURES[name], "uri": _data_uri(path.read_bytes()), "name": name}
        for name, path in paths.items()
        if path.exists()
    ]


def _context(
    groups: Sequence[Group],
    others: Mapping[str, str],
    named: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """All that the templates show, but the images."""
    by_name = {group.name: group for group in groups if group.is_named}
    latent_size_lines = _latent_size_lines(groups)
    rows = [
        [name, str(size), *(f"{terms[term]:.2f}" for term in _PUBLISHED)]
        for name, points in latent_size_lines.items()
        for size, terms in points
    ]
    return {
        "losses": _table(groups, _LOSS_COLUMNS),
        "likelihoods": _likelihood_table(groups),
        "reconstructions": _table(groups, _RECONSTRUCTION_COLUMNS),
        "samples": _sample_table(groups),
        "histogram": _histogram_table(groups),
        "observations": [(each, judge(each, by_name)) for each in OBSERVATIONS],
        "published": _published_table(by_name.get("published")),
        "published_standard_error": _PUBLISHED_STANDARD_ERROR,
        "latent_sizes": {
            "header": ["configuration", "latent size", "test loss", "reconstruction", "KL"],
            "rows": rows,
        },
        "latent_size_lines": latent_size_lines,
        "provenance": _provenance_table(groups, named),
        "num_models": {group.name: len(group.models) for group in groups},
        "others": others,
    }


def _images(groups: Sequence[Group], context: Mapping[str, Any]) -> dict[str, Any]:
    columns = [f"{split}_{term}" for split in ("train", "validation") for term in _PUBLISHED]
    curves = [(group.name, {c: group.curve(c) for c in columns}) for group in groups]
    lines = context["latent_size_lines"]
    kl = {
        group.name: np.mean([sorted(values, reverse=True) for values in found], axis=0)
        for group in groups
        if (found := group.values("analysis.latents.kl_per_dimension"))
    }
    return {
        "loss_curves": _data_uri(plots.overlay_loss_curves(curves)),
        "kl_per_dimension": _data_uri(plots.plot_kl_per_dimension(kl)) if kl else None,
        "latent_size_plot": _data_uri(plots.plot_latent_sizes(lines)) if lines else None,
        "galleries": [(group.name, _figures(group)) for group in groups],
    }


def _environment(autoescape: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _analyse_all(
    complete: Sequence[Run], schema: ml_collections.ConfigDict, location: Mapping[str, Any]
) -> dict[Path, str]:
    """Analyses the runs that are not yet; returns what is with those that cannot be."""
    missing = [run for run in complete if any("analysis" not in m.values for m in run.models)]
    problems = {}
    bar = tqdm(missing, desc="analysing", unit=" runs", disable=not sys.stderr.isatty())
    for run in bar:
        if bar.disable:
            print(f"analysing {run.workdir}", flush=True)
        fields = run_directory.flatten(run.record["config"]) | location
        try:
            config = configuration.from_flat_dict(fields, schema)
            analysis.analyse_run(config, run.workdir)
        except UserError as error:
            problems[run.workdir] = f"not analysed: {error}"
    return problems


def write(
    workdir: Path,
    named: Mapping[str, ml_collections.ConfigDict],
    schema: ml_collections.ConfigDict,
    location: Mapping[str, Any],
) -> None:
    """Mode `report`: reads every run below `workdir`, analyses those not yet analysed, reports.

    Args:
      workdir: the folder of the run directories.
      named: the configurations in `configs/`, the order of the tables.
      schema: the default configuration.
      location: where the data lie, by dotted path, where not at the place the runs name.

    Raises:
      UserError: there is no complete run below `workdir`, or it cannot be written to.
    """
    complete, others = runs.read_runs(workdir)
    if not complete:
        found = "; ".join(f"{folder}: {what}" for folder, what in others.items())
        raise UserError(f"--workdir={workdir}: holds no complete run{found and f' ({found})'}")
    others |= _analyse_all(complete, schema, location)
    complete, _ = runs.read_runs(workdir)
    fields = {name: config.to_dict() for name, config in named.items()}
    groups = runs.group(complete, fields)
    context = _context(groups, {str(folder): what for folder, what in others.items()}, fields)
    for name, images in (("report.html", _images(groups, context)), ("report.md", {})):
        environment = _environment(autoescape=name.endswith(".html"))
        text = environment.get_template(f"{name}.j2").render(context | images)
        run_directory.write_atomically(workdir / name, text)
        print(f"wrote {workdir / name}")
    for folder, what in others.items():
        print(f"{folder}: {what}")
