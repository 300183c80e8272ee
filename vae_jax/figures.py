"""Figures of a run: grids of digits and loss curves, drawn without any global state."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae_jax.run_directory import write_atomically

_DPI = 150
_INCHES_PER_IMAGE = 0.5
_GAP = 2  # white pixels between images
_PANELS = (
    ("loss", "Total (negative ELBO)"),
    ("reconstruction", "Reconstruction"),
    ("kl", "KL divergence"),
)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    # Without a software entry the same figure is the same file, whatever drew it.
    figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, png.getvalue())


def tile(images: np.ndarray) -> np.ndarray:
    """Lays images out as one, white gaps between them.

    Args:
      images: `<float>[rows, columns, height, width]`, ink in [0, 1].

    Returns:
      `<float>[rows * (height + gap) - gap, columns * (width + gap) - gap]`.
    """
    rows, columns, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (0, _GAP), (0, _GAP)))
    page = padded.transpose(0, 2, 1, 3).reshape(rows * (height + _GAP), columns * (width + _GAP))
    return page[:-_GAP, :-_GAP]


def _show(axes: Axes, page: np.ndarray) -> None:
    """Shows ink in [0, 1] as dark on white, without axes."""
    axes.imshow(page, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_axis_off()


def save_image_grid(path: Path, images: np.ndarray, title: str) -> None:
    """Saves images `<float>[rows, columns, height, width]` in [0, 1] as dark ink on white."""
    rows, columns = images.shape[:2]
    figure = Figure(
        figsize=(columns * _INCHES_PER_IMAGE, rows * _INCHES_PER_IMAGE + 0.4), layout="constrained"
    )
    axes = figure.add_subplot()
    _show(axes, tile(images))
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def save_reconstructions(path: Path, images: np.ndarray, reconstructions: np.ndarray) -> None:
    """Saves rows of images, each above the row of their reconstructions.

    Args:
      path: the PNG file.
      images: `<float>[rows, columns, height, width]` in [0, 1].
      reconstructions: of the same shape.
    """
    rows, columns = images.shape[:2]
    figure = Figure(
        figsize=(columns * _INCHES_PER_IMAGE, rows * (2 * _INCHES_PER_IMAGE + 0.15) + 0.4),
        layout="constrained",
    )
    pairs = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axes, above, below in zip(pairs, images, reconstructions, strict=True):
        _show(axes, tile(np.stack([above, below])))
    figure.suptitle("Test images (above) and their reconstructions (below)", fontsize=10)
    _save(figure, path)


def save_interpolation(path: Path, first: np.ndarray, steps: np.ndarray, last: np.ndarray) -> None:
    """Saves rows that lead from one image to another through the latent space.

    Args:
      path: the PNG file.
      first: `<float>[rows, height, width]`, the images each row begins with.
      steps: `<float>[rows, steps, height, width]`, decoded latent vectors.
      last: `<float>[rows, height, width]`, the images each row ends with.
    """
    parts = [tile(images) for images in (first[:, None], steps, last[:, None])]
    height, margin = len(parts[0]), first.shape[-1] // 2
    blank = np.zeros((height, margin))
    page = np.concatenate([parts[0], blank, parts[1], blank, parts[2]], axis=1)
    inches_per_pixel = _INCHES_PER_IMAGE / first.shape[-1]
    figure = Figure(
        figsize=(page.shape[1] * inches_per_pixel, height * inches_per_pixel + 0.4),
        layout="constrained",
    )
    axes = figure.add_subplot()
    _show(axes, page)
    left = 0
    for title, part in zip(("from", "through the latent space", "to"), parts, strict=True):
        axes.text(left + part.shape[1] / 2, -4, title, ha="center", va="bottom", fontsize=10)
        left += part.shape[1] + margin
    _save(figure, path)


def save_loss_curves(path: Path, rows: Sequence[dict[str, float]], best_epoch: int) -> None:
    """Saves the loss and its terms by epoch, training and validation.

    Args:
      path: the PNG file.
      rows: of `metrics.csv`, at least one; with the standard deviations over replicas, where
        there are several, which are drawn as bands.
      best_epoch: the epoch validation chooses; it is marked.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 15 else None
    has_std = f"train_{_PANELS[0][0]}_std" in rows[0]
    panels = figure.subplots(1, len(_PANELS))
    for axes, (term, title) in zip(panels, _PANELS, strict=True):
        for split in ("train", "validation"):
            column = f"{split}_{term}"
            values = np.array([row[column] for row in rows])
            axes.plot(epochs, values, label=split, marker=marker)
            if has_std:
                std = np.array([row[f"{column}_std"] for row in rows])
                axes.fill_between(epochs, values - std, values + std, alpha=0.3, linewidth=0)
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"best epoch ({best_epoch})")
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel("nats per image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, title="mean ± std of seeds" if has_std else None)
    _save(figure, path)
