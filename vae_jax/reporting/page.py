"""The report's page as HTML and as Markdown: sections of tables and plots, and their templates."""

import base64
import dataclasses
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe

from vae_jax.evaluation import plots
from vae_jax.reporting.runs import Group
from vae_jax.training.metrics import TERMS

_PLOTS = {
    "reconstructions": "Test images and their reconstructions",
    "samples": "Samples from random latents",
    "interpolation": "From one test image to another",
    "latent_map": "Latent means of test images",
}
_UNITS = """\
Losses are in nats per image, over every image of a split, at the epoch that validation chose.
Numbers are means ± standard deviations over seeds, if those differ; the best of a column is bold.
Epochs to within 1 nat are those until the validation loss is that near its lowest;
docs/evaluation.md defines the other measures. Runs on other data, or with another binarization or
likelihood, cannot be compared and have tables of their own.
"""
# Characters with a meaning in a line of Markdown; an underscore inside a word has none.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$]|(?<!\w)_|_(?!\w)")


class Best(str):
    """The best number of a column of a table."""

    def __html__(self) -> str:
        """Returns it in bold; templates call this."""
        return f"<b>{markupsafe.escape(str(self))}</b>"


class Column(NamedTuple):
    """A column of a table: its title, the measure's dotted name, its format, min or max if best."""

    title: str
    measure: str
    format: str = ".2f"
    best: Callable[..., float] | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the report."""

    title: str
    table: Sequence[Sequence[str]] = ()  # rows of cells, the titles first; `Best` cells are marked
    # URIs of PNG files by title; only the HTML page shows them.
    pictures: Mapping[str, str] = dataclasses.field(default_factory=dict)


# The columns of each table; docs/evaluation.md defines the measures.
TABLES = {
    "losses and latents": (
        Column("test -ELBO", "test.negative_elbo", best=min),
        Column("reconstruction", "test.reconstruction"),
        Column("KL", "test.kl"),
        Column("bits per dimension", "test_bits_per_dimension", ".3f", min),
        Column("best epoch", "best_epoch", ".0f"),
        Column("epochs to within 1 nat", "epochs_to_within_1_nat", ".0f", min),
        Column("parameters", "parameters", ",.0f"),
        Column("active units", "latents.active_units", ".0f"),
        Column("linear probe", "latents.probe_accuracy", ".1%", max),
    ),
    "likelihood": (
        Column("-log p(x)", "likelihood.negative_log_likelihood", best=min),
        Column("standard error", "likelihood.standard_error"),
        Column("gap", "likelihood.gap"),
        Column("samples of an image", "likelihood.num_importance_samples", ",.0f"),
        Column("effective", "likelihood.effective_sample_size", ",.1f"),
    ),
    "conditional models": (
        Column("samples recognized", "conditional.sample_accuracy", ".1%", max),
        Column("Bayes accuracy", "conditional.bayes_accuracy", ".2%", max),
    ),
    "reconstructions and interpolations": (
        Column("mean squared error", "reconstructions.mean_squared_error", ".5f", min),
        Column("sharpness", "reconstructions.sharpness", ".3f", max),
        Column("classifier accuracy", "reconstructions.classifier_accuracy", ".1%", max),
        Column("max/mean interpolation step", "interpolations.max_mean_step_ratio", best=min),
    ),
    "samples": (
        Column("Fréchet distance", "samples.frechet_distance", best=min),
        Column("precision", "samples.precision", ".3f", max),
        Column("recall", "samples.recall", ".3f", max),
        Column("coverage", "samples.coverage", ".3f", max),
        Column("low confidence", "samples.low_confidence_rate", ".1%", min),
        Column("blank", "samples.blank_fraction", ".2%", min),
        Column("copies", "samples.copy_fraction", ".2%"),
    ),
}


def _cell(values: Sequence[float], column: Column, best: float | None = None) -> str:
    """Formats the mean over seeds, and the standard deviation if they differ."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    text = f"{mean:{column.format}}"
    if len(set(values)) > 1:
        text += f" ± {statistics.stdev(values):{column.format}}"
    return Best(text) if mean == best else text


def _cells(groups: Sequence[Group], column: Column) -> list[str]:
    """Formats a column's cell for each group; the best number is marked unless all are equal."""
    of_groups = [group.values(column.measure) for group in groups]
    means = {statistics.fmean(values) for values in of_groups if values}
    best = column.best(means) if column.best and len(means) > 1 else None
    return [_cell(values, column, best) for values in of_groups]


def _table(groups: Sequence[Group], columns: Sequence[Column]) -> list[list[str]]:
    """Makes a row for each group and a column for each measure, without empty ones.

    Before the rows of samples stands the ceiling: training images in the samples' place.
    """
    columns = [c for c in columns if any(group.values(c.measure) for group in groups)]
    groups = [group for group in groups if any(group.values(c.measure) for c in columns)]
    if not groups:
        return []
    header = ["configuration", *(column.title for column in columns)]
    ceiling = [
        _cell(groups[0].values(column.measure.replace("samples.", "ceiling.")), column)
        for column in columns
        if column.measure.startswith("samples.")
    ]
    has_ceiling = any(cell != "-" for cell in ceiling)
    rows = [["training images (ceiling)", *ceiling]] if has_ceiling else []
    cells = [[group.name for group in groups], *(_cells(groups, c) for c in columns)]
    return [header, *rows, *map(list, zip(*cells, strict=True))]


def _comparison(title: str, groups: Sequence[Group]) -> Iterator[Section]:
    """Yields the sections of groups that can be compared."""
    for name, columns in TABLES.items():
        if table := _table(groups, columns):
            yield Section(f"{title}: {name}", table)
    columns = [f"{split}_{term}" for split in ("train", "validation") for term in TERMS]
    curves = [(group.name, {c: group.curve(c) for c in columns}) for group in groups]
    png = data_uri(plots.overlay_loss_curves(curves), "png")
    yield Section(f"{title}: convergence", pictures={"Training above, validation below": png})


def _gallery(group: Group) -> Section:
    """Shows the plots of a group's first model."""
    folder = group.models[0].folder / "plots"
    pictures = {
        title: data_uri(path.read_bytes(), "png")
        for name, title in _PLOTS.items()
        if (path := folder / f"{name}.png").is_file()
    }
    return Section(f"{group.name}: plots", pictures=pictures)


def describe(groups: Sequence[Group], problems: Mapping[Path, str]) -> list[Section]:
    """Lists the sections of the report of at least one group."""
    comparisons: dict[str, list[Group]] = {}
    for group in groups:
        comparisons.setdefault(group.runs[0].comparison, []).append(group)
    sections = [s for title, each in comparisons.items() for s in _comparison(title, each)]
    sections += [_gallery(group) for group in groups]
    provenance = [(group.name, run.provenance) for group in groups for run in group.runs]
    rows = [["configuration", *provenance[0][1]]]
    rows += [[name, *texts.values()] for name, texts in provenance]
    sections.append(Section("Provenance", rows))
    if problems:
        rows = [["folder", "reason"], *([str(path), why] for path, why in problems.items())]
        sections.append(Section("Skipped runs, completely or in part", rows))
    return sections


def data_uri(content: bytes, kind: str) -> str:
    """Returns an image file of a kind, such as "png", as a URI that holds all of it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def render(sections: Sequence[Section], is_html: bool) -> str:
    """Renders the report as a self-contained HTML page, or as Markdown without pictures."""
    name = "report.html.j2" if is_html else "report.md.j2"
    return render_template(name, units=_UNITS, sections=sections)


def render_template(template: str, /, **context: Any) -> str:
    """Renders a template of this package; names from outside are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = markdown
    return environment.get_template(template).render(context)


def markdown(text: str) -> str:
    """Escapes a text so that Markdown shows it as it is, also in a cell of a table."""
    if isinstance(text, Best):
        return f"**{text}**"
    line = " ".join(text.replace("&", "&amp;").split())
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", line)
