"""Plots of a run by Matplotlib: curves and maps, drawn without any global state."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from cycler import cycler
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae_jax.runtime.files import write_atomically

_DPI = 150
_TITLES = {"loss": "Loss", "reconstruction": "Reconstruction", "kl": "KL divergence"}
_SPLITS = {"train": "Training", "validation": "Validation"}
# Colors and dashes that tell lines apart.
_STYLES = cycler(linestyle=["-", "--", ":"]) * rcParams["axes.prop_cycle"]
MAX_COLORED_CLASSES = 20
_MAX_CHARACTERS = 40  # of a name in a plot
_SHOWN_QUANTILES = (0.02, 0.97)


def _label(name: str) -> str:
    """Returns the end of a name, and escapes what Matplotlib would not show as it is."""
    label = name[-_MAX_CHARACTERS:].encode(errors="backslashreplace").decode().replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label  # an underscore would hide the line


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    # Without a software entry the same plot is the same file in every version of Matplotlib.
    figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    return png.getvalue()


def _save(path: Path, figure: Figure) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, _png(figure))


def save_latent_map(
    path: Path, maps: dict[str, np.ndarray], labels: np.ndarray | None, class_names: Sequence[str]
) -> None:
    """Saves maps of the latent space side by side, each point colored by its class.

    Maps are `<float>[n, 2]` by title, labels `<int>[n]`. Without labels, or with more classes than
    there are colors that differ, all points have one color.
    """
    num_classes = len(class_names)
    is_colored = labels is not None and 0 < num_classes <= MAX_COLORED_CLASSES
    num_colors = 10 if num_classes <= 10 else 20  # of the color map
    style = {"c": labels, "cmap": f"tab{num_colors}", "vmin": -0.5, "vmax": num_colors - 0.5}
    figure = Figure(figsize=(5 * len(maps) + 0.8, 4.8), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, points) in zip(panels, maps.items(), strict=True):
        dots = axes.scatter(*points.T, s=4, lw=0, **style if is_colored else {"c": "C0"})
        axes.set(title=title, xticks=[], yticks=[])
    if is_colored:
        bar = figure.colorbar(dots, ax=panels[-1], ticks=range(num_classes), fraction=0.05)
        bar.ax.set_yticklabels([_label(name) for name in class_names])
        bar.ax.set_ylim(-0.5, num_classes - 0.5)
    _save(path, figure)


def _draw_axes(axes: Axes, title: str, x_label: str = "", y_label: str = "") -> None:
    """Draws a title, labels, whole numbers below and a grid."""
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def save_loss_curves(path: Path, rows: Sequence[dict[str, float]], best_epoch: int) -> None:
    """Saves the loss and its terms by epoch, training and validation; the best epoch is marked.

    Rows are those of `metrics.csv`; standard deviations over replicas are drawn as bands.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    has_std = "train_loss_std" in rows[0]
    epochs = [row["epoch"] for row in rows]
    panels = figure.subplots(1, len(_TITLES))
    for axes, (term, title) in zip(panels, _TITLES.items(), strict=True):
        for split in _SPLITS:
            values = np.array([row[f"{split}_{term}"] for row in rows])
            axes.plot(epochs, values, label=split, marker="o" if len(rows) < 15 else None)
            if has_std:
                std = np.array([row[f"{split}_{term}_std"] for row in rows])
                axes.fill_between(epochs, values - std, values + std, alpha=0.3, linewidth=0)
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"best epoch ({best_epoch})")
        _draw_axes(axes, title, "epoch", "nats per image")
    panels[0].legend(frameon=False, title="mean ± std of seeds" if has_std else None)
    _save(path, figure)


def overlay_loss_curves(runs: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> bytes:
    """Draws loss curves of runs over each other, training above validation, as a PNG file.

    Runs are names and the columns of `metrics.csv` by epoch.
    """
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    rows = figure.subplots(2, len(_TITLES), sharex=True, sharey="col")
    for (split, label), panels in zip(_SPLITS.items(), rows, strict=True):
        for axes, (term, title) in zip(panels, _TITLES.items(), strict=True):
            axes.set_prop_cycle(_STYLES)
            for name, curves in runs:
                curve = curves[f"{split}_{term}"]
                axes.plot(np.arange(1, len(curve) + 1), curve, label=_label(name), linewidth=1.4)
            _draw_axes(axes, f"{label}: {title}", "epoch", "nats per image")
    for axes, term in zip(rows[0], _TITLES, strict=True):
        columns = [curves[f"{split}_{term}"] for _, curves in runs for split in _SPLITS]
        # The first epochs would flatten all that follows.
        low, high = np.quantile(np.concatenate(columns), _SHOWN_QUANTILES)
        margin = 0.08 * (high - low) or 1.0  # a collapsed posterior has the same KL in each epoch
        axes.set_ylim(low - margin, high + margin)
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return _png(figure)
