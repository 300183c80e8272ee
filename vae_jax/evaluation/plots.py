"""Plots of a run: grids of images and loss curves, drawn without any global state."""

import dataclasses
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from vae_jax.runtime.files import write_atomically

_DPI = 150
_INCHES_PER_IMAGE = 0.5
_MAX_INCHES_PER_IMAGE = 4.0
_MIN_INCHES = 4.5  # the width of a title
_GAP = 2  # white pixels between images
_TITLES = {"loss": "Loss", "reconstruction": "Reconstruction", "kl": "KL divergence"}
_SPLITS = {"train": "Training", "validation": "Validation"}
_COLORS = [f"C{index}" for index in range(10)]
_MAX_COLORED_CLASSES = 20
_MAX_CHARACTERS = 24  # of a class's name in a plot
_SHOWN_QUANTILES = (0.02, 0.97)


def _class_label(index: int, name: str) -> str:
    """Returns the name of a class, or its number if the font lacks characters of the name."""
    font = get_font(findfont(FontProperties()))
    is_drawable = all(font.get_char_index(ord(character)) for character in name)
    return _label(name if is_drawable else f"class {index}", _MAX_CHARACTERS)


def _label(name: str, max_length: int = 100) -> str:
    """Escapes characters of a name that the font lacks or that mean a formula; cuts its middle."""
    font = get_font(findfont(FontProperties()))
    shown = (
        c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in name
    )
    label = "".join(shown)
    if len(label) > max_length:
        label = f"{label[: max_length - 11]}...{label[-8:]}"
    label = label.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label  # an underscore would hide the line


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    # Without a software entry the same plot is the same file in every version of Matplotlib.
    figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    return png.getvalue()


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, _png(figure))


def tile(images: np.ndarray) -> np.ndarray:
    """Lays `<float>[rows, columns, height, width, channels]` out as one image with gaps."""
    rows, columns, height, width, channels = images.shape
    gaps = ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0))
    padded = np.pad(images, gaps, constant_values=1.0).swapaxes(1, 2)
    page = padded.reshape(rows * (height + _GAP), columns * (width + _GAP), channels)
    return page[:-_GAP, :-_GAP]


def _save_page(path: Path, page: np.ndarray, image: np.ndarray, title: str) -> None:
    """Saves a page `<float>[height, width, channels]` of images as large as `image`.

    Intensities are black at 0 and white or full color at 1. Each pixel of an image has at least one
    of the plot's, unless the image is very large.
    """
    size = max(image.shape[:2])
    inches = min(max(_INCHES_PER_IMAGE, size / _DPI), _MAX_INCHES_PER_IMAGE) / size
    width, height = page.shape[1] * inches, page.shape[0] * inches
    figure = Figure(figsize=(max(width, _MIN_INCHES), height + 0.4), layout="constrained")
    axes = figure.add_subplot()
    page = page if page.shape[-1] == 3 else page[..., 0]
    # Draws of a Gaussian may lie beyond [0, 1].
    axes.imshow(page.clip(0.0, 1.0), "gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def save_image_grid(path: Path, images: np.ndarray, title: str) -> None:
    """Saves images `<float>[rows, columns, height, width, channels]` in [0, 1]."""
    _save_page(path, tile(images), images[0, 0], title)


def save_reconstructions(path: Path, images: np.ndarray, reconstructions: np.ndarray) -> None:
    """Saves rows of images, each above the row of their reconstructions.

    Both are `<float>[rows, columns, height, width, channels]` in [0, 1].
    """
    pairs = [tile(np.stack(pair)) for pair in zip(images, reconstructions, strict=True)]
    gaps = ((0, images.shape[2] // 3), (0, 0), (0, 0))
    page = np.concatenate([np.pad(pair, gaps, constant_values=1.0) for pair in pairs])
    title = "Test images (above) and their reconstructions (below)"
    _save_page(path, page[: -gaps[0][1] or None], images[0, 0], title)


def save_interpolation(path: Path, first: np.ndarray, steps: np.ndarray, last: np.ndarray) -> None:
    """Saves rows that lead from one image to another through the latent space.

    First and last are `<float>[rows, height, width, channels]`, the decoded latent vectors
    between them `<float>[rows, steps, height, width, channels]`.
    """
    parts = [tile(images) for images in (first[:, None], steps, last[:, None])]
    gap = np.ones((len(parts[0]), first.shape[2] // 2, first.shape[-1]))
    page = np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)
    _save_page(path, page, first[0], "From the left through the latent space to the right")


def save_latent_map(
    path: Path, maps: dict[str, np.ndarray], labels: np.ndarray | None, class_names: Sequence[str]
) -> None:
    """Saves maps of the latent space side by side, each point colored by its class.

    Maps are `<float>[n, 2]` by title, labels `<int>[n]`. Without labels, or with more classes than
    there are colors that differ, all points have one color.
    """
    num_classes = len(class_names)
    is_colored = labels is not None and 0 < num_classes <= _MAX_COLORED_CLASSES
    num_colors = 10 if num_classes <= 10 else 20  # of the color map
    style = {"c": labels, "cmap": f"tab{num_colors}", "vmin": -0.5, "vmax": num_colors - 0.5}
    figure = Figure(figsize=(5 * len(maps) + 0.8, 4.8), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, points) in zip(panels, maps.items(), strict=True):
        dots = axes.scatter(*points.T, s=4, lw=0, **style if is_colored else {"c": _COLORS[0]})
        axes.set(title=title, xticks=[], yticks=[])
    if is_colored:
        bar = figure.colorbar(dots, ax=panels[-1], ticks=range(num_classes), fraction=0.05)
        bar.ax.set_yticklabels([_class_label(*item) for item in enumerate(class_names)])
        bar.ax.set_ylim(-0.5, num_classes - 0.5)
    _save(figure, path)


def _draw_axes(axes: Axes, title: str, x_label: str = "", y_label: str = "") -> None:
    """Draws a title, labels, whole numbers below and a grid."""
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def _titles(runs: Iterable[Mapping[str, ArrayLike]]) -> dict[str, str]:
    """Titles each term; the loss is the negative ELBO if it is the sum of the others."""
    is_negative_elbo = all(
        np.allclose(run["loss"], np.add(run["reconstruction"], run["kl"]), 1e-4, equal_nan=True)
        for run in runs
    )
    return _TITLES | ({"loss": "Total (negative ELBO)"} if is_negative_elbo else {})


def _of_splits(curves: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Returns the terms of training and those of validation in `metrics.csv`."""
    return [{term: curves[f"{split}_{term}"] for term in _TITLES} for split in _SPLITS]


def save_loss_curves(path: Path, rows: Sequence[dict[str, float]], best_epoch: int) -> None:
    """Saves the loss and its terms by epoch, training and validation; the best epoch is marked.

    Rows are those of `metrics.csv`; standard deviations over replicas are drawn as bands.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    has_std = "train_loss_std" in rows[0]
    # Only the columns that are drawn: others may be missing from some rows.
    terms = [f"{split}_{term}" for split in _SPLITS for term in _TITLES]
    columns = ["epoch", *terms, *(f"{term}_std" for term in terms if has_std)]
    curves = {column: np.array([row[column] for row in rows]) for column in columns}
    titles = _titles(_of_splits(curves))
    panels = figure.subplots(1, len(titles))
    for axes, (term, title) in zip(panels, titles.items(), strict=True):
        for split in _SPLITS:
            values = curves[f"{split}_{term}"]
            axes.plot(curves["epoch"], values, label=split, marker="o" if len(rows) < 15 else None)
            if has_std:
                std = curves[f"{split}_{term}_std"]
                band = (values - std, values + std)
                axes.fill_between(curves["epoch"], *band, alpha=0.3, linewidth=0)
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"best epoch ({best_epoch})")
        _draw_axes(axes, title, "epoch", "nats per image")
    panels[0].legend(frameon=False, title="mean ± std of seeds" if has_std else None)
    _save(figure, path)


def _styles() -> Iterator[dict[str, Any]]:
    """Yields colors and dashes that tell lines apart, without end."""
    return itertools.cycle(
        {"color": color, "linestyle": dashes} for dashes in ("-", "--", ":") for color in _COLORS
    )


def overlay_loss_curves(runs: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> bytes:
    """Draws loss curves of runs over each other, training above validation, as a PNG file.

    Runs are names and the columns of `metrics.csv` by epoch.
    """
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    titles = _titles(terms for _, curves in runs for terms in _of_splits(curves))
    rows = figure.subplots(2, len(titles), sharex=True, sharey="col")
    for (split, label), panels in zip(_SPLITS.items(), rows, strict=True):
        for axes, (term, title) in zip(panels, titles.items(), strict=True):
            for (name, curves), style in zip(runs, _styles(), strict=False):
                curve = curves[f"{split}_{term}"]
                epochs = np.arange(1, len(curve) + 1)
                axes.plot(epochs, curve, label=_label(name), linewidth=1.4, **style)
            _draw_axes(axes, f"{label}: {title}", "epoch", "nats per image")
    for axes, term in zip(rows[0], titles, strict=True):
        columns = [curves[f"{split}_{term}"] for _, curves in runs for split in _SPLITS]
        # The first epochs would flatten all that follows.
        low, high = np.quantile(np.concatenate(columns), _SHOWN_QUANTILES)
        margin = 0.08 * (high - low) or 1.0  # a collapsed posterior has the same KL in each epoch
        axes.set_ylim(low - margin, high + margin)
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return _png(figure)


@dataclasses.dataclass(frozen=True)
class LatentSizePoint:
    """Test loss and terms, by name, of runs of one latent size."""

    latent_size: int
    means: Mapping[str, float]
    stds: Mapping[str, float | None]  # None of a single seed


def plot_latent_sizes(lines: Mapping[str, Sequence[LatentSizePoint]]) -> bytes:
    """Draws test loss and terms by latent dimensions as a PNG file, a line a configuration."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    titles = _titles(point.means for points in lines.values() for point in points)
    ticks = sorted({point.latent_size for points in lines.values() for point in points})
    panels = figure.subplots(1, len(titles))
    for axes, (term, title) in zip(panels, titles.items(), strict=True):
        for name, points in lines.items():
            sizes = [point.latent_size for point in points]
            values = [point.means[term] for point in points]
            stds = [point.stds[term] or 0.0 for point in points]
            axes.errorbar(sizes, values, stds, marker="o", capsize=3, label=_label(name))
        _draw_axes(axes, title, "latent dimensions", "nats per image, test")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [*map(str, ticks)])
        axes.xaxis.set_minor_locator(NullLocator())
    panels[0].legend(frameon=False)
    return _png(figure)


def plot_kl_per_dimension(runs: Mapping[str, np.ndarray]) -> bytes:
    """Draws the KL of each latent dimension, `<float>[latent]` in falling order, as a PNG file.

    The axis ends where no run has as much as 0.01 nats any more.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, values), style in zip(runs.items(), _styles(), strict=False):
        axes.plot(np.arange(1, len(values) + 1), values, label=_label(name), marker=".", **style)
    used = max(np.count_nonzero(values >= 0.01) for values in runs.values())
    axes.set_xlim(0.5, used + 1.5)
    _draw_axes(axes, "", "latent dimension, by rank", "KL, nats per image")
    axes.legend(frameon=False, ncols=2)
    return _png(figure)
