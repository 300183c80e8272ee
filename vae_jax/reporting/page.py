"""The report's page as HTML and as Markdown: sections of tables and plots, and their templates."""

import base64
import dataclasses
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np

from vae_jax.evaluation import plots
from vae_jax.reporting.runs import Group
from vae_jax.runtime.errors import UserError
from vae_jax.training.metrics import TERMS

EXPLORER_NAME = "explorer.html"
_PLOTS = {
    "reconstructions": "Test images and their reconstructions",
    "classes": "The same latents in every class",
    "samples": "Samples from random latents",
    "interpolation": "From one test image to another",
    "latent_map": "Latent means of test images",
    "manifold": "The latent plane",
}
# Characters with a meaning in a line of Markdown; an underscore inside a word has none.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$]|(?<!\w)_|_(?!\w)")
_UNITS = """\
Losses are in nats per image, over every image of a split, at the epoch that validation chose; those
of a Bernoulli on gray pixels are not likelihoods, those of a density may be negative. Where a
configuration has several seeds, numbers are means ± standard deviations over them ({seeds}),
without ± where all seeds agree. Active units are latent variables whose posterior mean varies over
the test images by more than 0.01; epochs to within 1 nat are those until validation is that near
its best; the linear probe is the accuracy of a logistic regression of the class on the latent
means, where there are classes. Runs on other data, or with other binarization or another
likelihood, have tables of their own: they cannot be compared. The best number of a column is bold.
"""
_LIKELIHOOD = """\
Importance-weighted estimates (Burda et al. 2016) on the binarized test images: samples are those of
each image, effective is their effective number; the standard error is over the images; the gap is
the estimate minus the ELBO.
"""
_CONDITIONAL = """\
Samples recognized: the fraction of 1,000 samples of each class that the digit classifier takes for
that class, where the images are digits. Bayes accuracy: the fraction of the test images whose own
class has the largest log p(x | y), estimated with the given number of importance samples; for gray
pixels of a Bernoulli the bound takes its place.
"""
_SAMPLES = """\
As many samples as there are test images, against these. Distances are in the features of a small
digit classifier that comes with the package where the images are digits, else in the first 64
principal components of the training images. Fréchet distance, class KL: lower is better; precision,
recall, density, coverage, confidence: higher; the first row, training images in the samples' place,
is the best to hope for. A digit is present with 1% of the samples or more; its confidence is low
where it gives no digit 90%; a blank's pixels sum to less than any training image's, or none reaches
half of the full intensity; a copy is nearer to a training image than 99% of the test images are;
the distance to the training images is the median, relative to the test images'.
"""


class Best(str):
    """The best number of a column of a table."""


class Column(NamedTuple):
    """A column of a table: its title, the measure's dotted name, its format, min or max if best."""

    title: str
    measure: str
    format: str = ".2f"
    best: Callable[..., float] | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
      title: its heading.
      level: of the heading: 2, or 3 below a section of level 2.
      text: a paragraph.
      table: rows of cells, the titles first; `Best` cells are marked.
      pictures: PNG files by title, None in a section without; only the HTML page shows them.
      links: addresses by text, beside the pictures.
    """

    title: str
    level: int = 3
    text: str = ""
    table: Sequence[Sequence[str]] = ()
    pictures: Mapping[str, bytes] | None = None
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)


LOSS_COLUMNS = (
    Column("test loss", "test.loss", best=min),
    Column("reconstruction", "test.reconstruction"),
    Column("KL", "test.kl"),
    Column("bits per dimension", "test_bits_per_dimension", ".3f", min),
    Column("validation loss", "validation.loss", best=min),
    Column("best epoch", "best_epoch", ".0f"),
    Column("epochs to within 1 nat", "epochs_to_within_1_nat", ".0f", min),
    Column("parameters", "parameters", ",.0f"),
    Column("active units", "latents.active_units", ".0f"),
    Column("linear probe", "latents.probe_accuracy", ".1%", max),
)
ELBO_COLUMNS = (
    Column("test negative ELBO", "test.negative_elbo", best=min),
    Column("validation negative ELBO", "validation.negative_elbo", best=min),
)
LIKELIHOOD_COLUMNS = (
    Column("-log p(x)", "likelihood.negative_log_likelihood", best=min),
    Column("bits per dimension", "likelihood.bits_per_dimension", ".3f", min),
    Column("standard error", "likelihood.standard_error"),
    Column("negative ELBO", "likelihood.negative_elbo", best=min),
    Column("gap", "likelihood.gap"),
    Column("samples", "likelihood.num_importance_samples", ",.0f"),
    Column("effective", "likelihood.effective_sample_size", ",.1f"),
)
CONDITIONAL_COLUMNS = (
    Column("samples recognized", "conditional.sample_accuracy", ".1%", max),
    Column("in the worst class", "conditional.worst_accuracy", ".1%", max),
    Column("Bayes accuracy", "conditional.bayes_accuracy", ".2%", max),
    Column("samples", "conditional.num_importance_samples", ".0f"),
)
RECONSTRUCTION_COLUMNS = (
    Column("mean squared error", "reconstructions.mean_squared_error", ".5f", min),
    Column("sharpness", "reconstructions.sharpness", ".3f", max),
    Column("classifier accuracy", "reconstructions.classifier_accuracy", ".1%", max),
    Column("max/mean interpolation step", "interpolations.max_mean_step_ratio", best=min),
    Column("interpolation confidence", "interpolations.mean_confidence", best=max),
)
SAMPLE_COLUMNS = (
    Column("Fréchet distance", "samples.frechet_distance", best=min),
    Column("precision", "samples.precision", ".3f", max),
    Column("recall", "samples.recall", ".3f", max),
    Column("density", "samples.density", ".3f", max),
    Column("coverage", "samples.coverage", ".3f", max),
    Column("digits present", "samples.digits_present", ".0f"),
    Column("class KL", "samples.class_kl", ".3f", min),
    Column("confidence", "samples.mean_confidence", ".3f", max),
    Column("low confidence", "samples.low_confidence_rate", ".1%", min),
    Column("blank", "samples.blank_fraction", ".2%", min),
    Column("copies", "samples.copy_fraction", ".2%"),
    Column("distance to training", "samples.nearest_distance_ratio"),
)


def _loss_columns(groups: Sequence[Group]) -> Sequence[Column]:
    """Lists the columns of losses; if the objectives differ, only their ELBOs are comparable."""
    losses = (group.runs[0].directory.config.loss for group in groups)
    if len({(loss.kl_weight, loss.num_importance_samples) for loss in losses}) < 2:
        return LOSS_COLUMNS
    unranked = ("test.loss", "validation.loss")
    others = (c._replace(best=None) if c.measure in unranked else c for c in LOSS_COLUMNS)
    return (*ELBO_COLUMNS, *others)


def _cells(groups: Sequence[Group], column: Column) -> list[str]:
    """Formats a column's cell for each group; the best number is marked unless all are equal.

    A number that is the same for all seeds, such as the parameters, has no standard deviation.
    """
    means = [group.mean(column.measure) for group in groups]
    numbers = {mean for mean in means if mean is not None}
    best = column.best(numbers) if column.best and len(numbers) > 1 else None
    cells = []
    for group, mean in zip(groups, means, strict=True):
        std = group.std(column.measure)
        text = "-" if mean is None else f"{mean:{column.format}}"
        text += f" ± {std:{column.format}}" if std else ""
        cells.append(Best(text) if mean is not None and mean == best else text)
    return cells


def _table(groups: Sequence[Group], columns: Sequence[Column]) -> list[list[str]]:
    """Makes a row for each group and a column for each measure, without empty ones."""
    columns = [c for c in columns if any(group.values(c.measure) for group in groups)]
    measured = [group for group in groups if any(group.values(c.measure) for c in columns)]
    cells = [[group.name for group in measured], *(_cells(measured, c) for c in columns)]
    header = ["configuration", *(column.title for column in columns)]
    return [header, *map(list, zip(*cells, strict=True))] if measured else []


def _sample_table(groups: Sequence[Group]) -> list[list[str]]:
    """Makes the samples' table; its first row has training images in the samples' place."""
    table = _table(groups, SAMPLE_COLUMNS)
    # One data set has one ceiling: the first that was measured.
    measured = [group for group in groups if group.values("ceiling.num_samples")][:1]
    if not table or not measured:
        return table
    ceilings = (
        column._replace(measure=column.measure.replace("samples.", "ceiling."))
        for column in SAMPLE_COLUMNS
        if column.title in table[0]
    )
    row = ["training images (ceiling)", *(_cells(measured, each)[0] for each in ceilings)]
    return [table[0], row, *table[1:]]


def _histogram_table(groups: Sequence[Group]) -> list[list[str]]:
    rows = [
        [group.name, *(f"{fraction:.1%}" for fraction in np.mean(histograms, axis=0))]
        for group in groups
        if (histograms := group.values("samples.class_fractions"))
    ]
    return [["configuration", *map(str, range(10))], *rows] if rows else []


def _latent_size_section(groups: Sequence[Group]) -> Section:
    """Compares groups that differ in the latent size alone, by the first's name."""
    families: dict[str, list[Group]] = {}
    for group in groups:
        fields = {p: v for p, v in group.runs[0].identity.items() if p != "latent_size"}
        families.setdefault(str(sorted(fields.items())), []).append(group)
    lines: dict[str, list[plots.LatentSizePoint]] = {}
    for family in families.values():
        if len(family) > 1:
            points = map(_latent_size_point, family)
            lines[family[0].name] = sorted(points, key=lambda point: point.latent_size)
    if not lines:
        return Section("Latent size")
    rows = [
        [name, str(point.latent_size), *(f"{point.means[term]:.2f}" for term in TERMS)]
        for name, points in lines.items()
        for point in points
    ]
    header = ["configuration", "latent size", "test loss", "reconstruction", "KL"]
    pictures = {"Test loss by latent size": plots.plot_latent_sizes(lines)}
    return Section("Latent size", table=[header, *rows], pictures=pictures)


def _latent_size_point(group: Group) -> plots.LatentSizePoint:
    means = {term: group.mean(f"test.{term}") or 0.0 for term in TERMS}
    stds = {term: group.std(f"test.{term}") for term in TERMS}
    return plots.LatentSizePoint(group.runs[0].directory.config.latent_size, means, stds)


def _comparison(title: str, groups: Sequence[Group]) -> Iterable[Section]:
    """Yields the sections of groups that can be compared; some are empty."""
    columns = [f"{split}_{term}" for split in ("train", "validation") for term in TERMS]
    curves = [(group.name, {c: group.curve(c) for c in columns}) for group in groups]
    kl = {
        group.name: np.mean([sorted(each, reverse=True) for each in kls], axis=0)
        for group in groups
        if (kls := group.values("latents.kl_per_dimension"))
    }
    features = sorted({name for group in groups for name in group.values("samples.features")})
    yield Section(title, level=2)
    yield Section("Losses and latents", table=_table(groups, _loss_columns(groups)))
    yield Section("Likelihood", text=_LIKELIHOOD, table=_table(groups, LIKELIHOOD_COLUMNS))
    conditional = _table(groups, CONDITIONAL_COLUMNS)
    yield Section("Conditional models", text=_CONDITIONAL, table=conditional)
    reconstructions = _table(groups, RECONSTRUCTION_COLUMNS)
    yield Section("Reconstructions and interpolations", table=reconstructions)
    pictures = {"Training above, validation below": plots.overlay_loss_curves(curves)}
    yield Section("Loss curves", pictures=pictures)
    if kl:
        pictures = {"KL of each latent dimension, by rank": plots.plot_kl_per_dimension(kl)}
        yield Section("KL per latent dimension", pictures=pictures)
    heading = f"Samples, in features of the {' and '.join(features)}"
    yield Section(heading, text=_SAMPLES, table=_sample_table(groups))
    yield Section("Fractions of the digits among the samples", table=_histogram_table(groups))
    yield _latent_size_section(groups)


def _gallery(group: Group, folder: Path) -> Section:
    """Shows the plots of a group's first model, with links relative to the page's folder."""
    first = group.models[0]
    paths = {title: first.folder / "plots" / f"{name}.png" for name, title in _PLOTS.items()}
    pictures = {title: path.read_bytes() for title, path in paths.items() if path.is_file()}
    links = {}
    for model in group.models:
        path = model.folder / EXPLORER_NAME
        if path.exists():
            address = urllib.parse.quote(os.fsencode(os.path.relpath(path, folder)))
            links[f"Explore the latent space of {group.name}, seed {model.seed}"] = address
    return Section(group.name, pictures=pictures, links=links)


def describe(groups: Sequence[Group], problems: Mapping[Path, str], folder: Path) -> list[Section]:
    """Lists the sections of the report: of at least one group, for a page in `folder`."""
    sections = []
    for title, comparable in _comparable(groups).items():
        sections += _comparison(title, comparable)
    sections = [s for s in sections if s.table or s.pictures or s.level == 2]
    sections.append(Section("Plots", level=2, pictures={}))
    sections += [_gallery(group, folder) for group in groups]
    provenance = [(group.name, run.provenance) for group in groups for run in group.runs]
    rows = [["configuration", *provenance[0][1]]]
    rows += [[name, *texts.values()] for name, texts in provenance]
    sections.append(Section("Provenance", level=2, table=rows))
    if problems:
        rows = [["folder", "reason"], *([str(path), why] for path, why in problems.items())]
        title = "Skipped runs, completely or in part"
        sections.append(Section(title, level=2, table=rows))
    return sections


def _comparable(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Collects groups that can be compared, by title; the data's hash tells equal titles apart."""
    comparisons: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        comparisons.setdefault(group.runs[0].comparison, []).append(group)
    titles = [title for title, _ in comparisons]
    return {
        f"{title}, data {sha256[:8]}" if titles.count(title) > 1 else title: comparable
        for (title, sha256), comparable in comparisons.items()
    }


def render(groups: Sequence[Group], sections: Sequence[Section], is_html: bool) -> str:
    """Renders the report as a self-contained HTML page, or as Markdown without pictures."""
    seeds = ", ".join(f"{group.name}: {len(group.models)}" for group in groups)
    units = _UNITS.format(seeds=seeds)
    name = "report.html.j2" if is_html else "report.md.j2"
    return render_template(name, units=units, sections=sections)


def render_template(template: str, /, **context: Any) -> str:
    """Renders a template of this package; names from outside are escaped."""
    is_html = template.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=is_html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = _html_text if is_html else _markdown_text
    environment.filters["data_uri"] = lambda png: (
        f"data:image/png;base64,{base64.b64encode(png).decode()}"
    )
    return environment.get_template(template).render(context)


def _html_text(text: str) -> str:
    escaped = markupsafe.escape(str(text))
    return markupsafe.Markup(f"<b>{escaped}</b>") if isinstance(text, Best) else escaped


def _markdown_text(text: str) -> str:
    """Escapes a text so that Markdown shows it as it is, also in a cell of a table."""
    if isinstance(text, Best):
        return f"**{text}**"
    line = str(UserError(text))  # line breaks are escaped
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", line.replace("&", "&amp;"))
