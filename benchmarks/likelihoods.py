"""Each likelihood on the same images: losses, reconstructions and samples side by side.

  python benchmarks/likelihoods.py runs/likelihoods/frey --config=configs/images.py \
      --config.data.path=freyfaces.npz

trains one run for each kind below the folder, or goes on where it stopped, prints a table, and
writes `likelihoods.png` there: test images, and each kind's reconstructions and samples.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import ROOT, describe_machine, print_table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from trained import restore

from vae_jax import configuration
from vae_jax.evaluation import generation, plots
from vae_jax.evaluation.measures import SUMMARY_NAME, Summary
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.runtime.files import read_record
from vae_jax.training.batches import to_batch

_NUM_SHOWN = 12


def train(kind: str, workdir: Path, arguments: list[str]) -> None:
    """Trains with a likelihood, in a process of its own."""
    command = [sys.executable, "main.py", f"--workdir={workdir.resolve()}", *arguments]
    subprocess.run([*command, f"--config.likelihood.kind={kind}"], cwd=ROOT, check=True)


def measure(kind: str, workdir: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Measures a run: its row of the table, and its rows of images by title."""
    replica, dataset = restore(workdir)
    test = dataset.test
    summary = read_record(workdir / SUMMARY_NAME, Summary)
    originals = test.images / MAX_PIXEL
    reconstructions = generation.reconstruct(replica.model, replica.params, to_batch(test))
    error = float(((reconstructions - originals) ** 2).mean())
    bits = summary.test_bits_per_dimension
    samples = generation.sample(replica.model, replica.params, replica.root_key, _NUM_SHOWN)
    row = [
        kind,
        f"{summary.test['loss']:.2f}",
        f"{summary.test['kl']:.2f}",
        "-" if bits is None else f"{bits:.3f}",
        f"{error:.5f}",
    ]
    name = kind.replace("_", "\n")
    images = {
        "test images": replica.shown(originals[:_NUM_SHOWN]),
        f"{name}\nmeans": replica.shown(reconstructions[:_NUM_SHOWN]),
        f"{name}\nsamples": replica.shown(samples),
    }
    return row, images


def draw(rows: dict[str, np.ndarray], path: Path) -> None:
    """Draws rows of images, titled at the left."""
    figure = Figure(figsize=(9.0, 0.75 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, images) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        page = plots.tile(images[None])
        axes.imshow(page if page.shape[-1] == 3 else page[..., 0], "gray", vmin=0.0, vmax=1.0)
        axes.set_axis_off()
        axes.text(-4, page.shape[0] / 2, title, ha="right", va="center", fontsize=7)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    """Trains, measures and draws."""
    parser = argparse.ArgumentParser(description="Compares the likelihoods on the same images.")
    parser.add_argument("folder", type=Path)
    options, arguments = parser.parse_known_args()
    table, shown = [], {}
    for kind in configuration.LIKELIHOODS:
        train(kind, options.folder / kind, arguments)
        row, images = measure(kind, options.folder / kind)
        table.append(row)
        shown |= images
    print(describe_machine())
    header = ["likelihood", "test loss", "KL", "bits per dimension", "mean squared error"]
    print_table(header, table)
    draw(shown, options.folder / "likelihoods.png")


if __name__ == "__main__":
    main()
