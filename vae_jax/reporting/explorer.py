"""The page on which a trained model is explored: what it shows, and its file.

A browser decodes no latents: all images are decoded here, and the page looks them up.
"""

import dataclasses
import itertools
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from vae_jax.datasets import Dataset
from vae_jax.evaluation import generation
from vae_jax.evaluation.latent_statistics import Plane, principal_plane
from vae_jax.evaluation.measuring import NotMeasured
from vae_jax.evaluation.trained_run import Replica
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.model.priors import FlowPrior
from vae_jax.model.structs import Batch
from vae_jax.reporting import sprites
from vae_jax.reporting.page import environment
from vae_jax.runtime.errors import UserError
from vae_jax.training.batches import to_batch

# With these numbers of images, at the most that a sprite may take, the file stays below 6 MB.
_NUM_CELLS = sprites.COLUMNS  # to a side of the map: its sheet is laid out as the map is
_MAX_POINTS = 2_000
_MAX_VARIABLES = 10
_TRAVERSAL = np.linspace(-3.0, 3.0, 15)  # in standard deviations
_MAX_ENDS = 20
_MAX_STARTS = 5  # of traversals, beside the mean
_MAX_SELECTED = 10  # classes of a conditional model to select from
_NUM_BETWEEN = 7  # places between two ends, these not among them
_NUM_SAMPLES = 320
_MARGIN = 0.05  # around the map's points, of their extent
_MAX_COLORED_CLASSES = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Exploration:
    """What is shown of a latent space.

    Attributes:
      plane: the plane of the map.
      corner: `<float>[2]`, the coordinates of the map's upper left corner.
      side: the length of its sides.
      rows: `<int>[points]`, the test images that are points of the map.
      points: `<float>[points, 2]`, where they are: 0 to 1 to the right, and downwards.
      ends: `<int>[ends]`, which of `rows` are the ends of interpolations.
      starts: `<int>[starts]`, which of `ends` are where traversals start, after the mean.
      variables: `<int>[variables]`, the latent variables to traverse, the most active first.
      latents: what is decoded, `<float32>[n, latent]` in the base space of the prior, by the name
        of its sheet.
      labels: `<int32>[n]`, the class that each of these is decoded in, by the name of its sheet;
        empty if the model has no classes.
      num_selected: classes that can be selected: map, traversals of the mean and samples are there
        in each of them, one class after another.
    """

    plane: Plane
    corner: np.ndarray
    side: float
    rows: np.ndarray
    points: np.ndarray
    ends: np.ndarray
    starts: np.ndarray
    variables: np.ndarray
    latents: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    num_selected: int


def choose(
    mean: np.ndarray, variance: np.ndarray, labels: np.ndarray | None, num_classes: int = 0
) -> Exploration:
    """Chooses what is shown of a latent space.

    Args:
      mean: `<float>[n, latent]`, of the test images' posteriors.
      variance: `<float>[latent]`, of each latent variable over all of these together.
      labels: `<int>[n]`; None where there are none.
      num_classes: of a conditional model, else 0.

    Raises:
      UserError: the means do not differ, so that there is no map.
    """
    try:
        plane = principal_plane(mean)
    except NotMeasured as error:
        raise UserError(f"there is nothing to explore: {error}") from error
    rows = _spread_out(len(mean), _MAX_POINTS)
    coordinates = plane.project(mean[rows]).astype(np.float64)
    low, high = coordinates.min(0), coordinates.max(0)
    side = float((high - low).max()) * (1.0 + 2.0 * _MARGIN)
    corner = (low + high) / 2.0 + np.array([-side, side]) / 2.0
    ends = _pick_ends(None if labels is None else labels[rows], len(rows))
    starts = _spread_out(len(ends), _MAX_STARTS)
    variables = np.argsort(-mean.var(0, dtype=np.float64), kind="stable")[:_MAX_VARIABLES]
    num_selected = min(num_classes, _MAX_SELECTED)
    copies = max(num_selected, 1)
    cells = plane.latents_at(_cell_centers(corner, side))
    origins = np.concatenate(
        [mean.mean(0, dtype=np.float64)[None]] * copies + [mean[rows[ends[starts]]]]
    )
    latents = {
        "map": np.tile(cells, (copies, 1)),
        "traversals": _traversals(origins, variance, variables),
        "interpolations": _interpolations(mean[rows[ends]]),
    }
    decoded_labels = {}
    if labels is not None and num_classes:
        classes = np.arange(copies, dtype=np.int32)
        start_labels = np.concatenate([classes, labels[rows[ends[starts]]].astype(np.int32)])
        decoded_labels = {
            "map": classes.repeat(len(cells)),
            "traversals": start_labels.repeat(len(variables) * len(_TRAVERSAL)),
            "interpolations": _interpolation_labels(labels[rows[ends]].astype(np.int32)),
        }
    points = (coordinates - corner) / (side, -side)
    return Exploration(
        plane,
        corner,
        side,
        rows,
        points,
        ends,
        starts,
        variables,
        latents,
        decoded_labels,
        num_selected,
    )


def _spread_out(num: int, max_num: int) -> np.ndarray:
    """Returns evenly spaced indices, at most so many."""
    return np.linspace(0, num - 1, min(num, max_num)).round().astype(int)


def _pick_ends(labels: np.ndarray | None, num: int) -> np.ndarray:
    """Picks images of all classes alike; evenly spaced ones where there are no labels."""
    if labels is None:
        return _spread_out(num, _MAX_ENDS)
    copies = np.zeros(num, int)  # for each image, how many of its class come before it
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        copies[of_class] = np.arange(len(of_class))
    picked = np.lexsort((labels, copies))[:_MAX_ENDS]
    return picked[np.argsort(labels[picked], kind="stable")]


def _cell_centers(corner: np.ndarray, side: float) -> np.ndarray:
    """Returns the coordinates of the map's cells, `<float>[cells, 2]`, row by row."""
    offsets = (np.arange(_NUM_CELLS) + 0.5) * side / _NUM_CELLS
    across, up = np.meshgrid(corner[0] + offsets, corner[1] - offsets)
    return np.stack([across, up], -1).reshape(-1, 2)


def _traversals(origins: np.ndarray, variance: np.ndarray, variables: np.ndarray) -> np.ndarray:
    """Moves one latent variable after the other away from each origin, `<float>[n, latent]`."""
    latents = np.tile(origins[:, None, None], (1, len(variables), len(_TRAVERSAL), 1))
    for row, variable in enumerate(variables):
        latents[:, row, :, variable] += _TRAVERSAL * np.sqrt(variance[variable])
    return latents.reshape(-1, origins.shape[1]).astype(np.float32)


def _interpolations(ends: np.ndarray) -> np.ndarray:
    """Returns the ends, then what lies between each two of them, from the one named first."""
    weights = np.linspace(0.0, 1.0, _NUM_BETWEEN + 2, dtype=np.float32)[1:-1, None]
    between = [(1 - weights) * a + weights * b for a, b in itertools.combinations(ends, 2)]
    return np.concatenate([ends, *between])


def _interpolation_labels(ends: np.ndarray) -> np.ndarray:
    """Returns the class of each latent vector of `_interpolations`; it changes in the middle."""
    is_late = np.linspace(0.0, 1.0, _NUM_BETWEEN + 2)[1:-1] > 0.5
    between = [np.where(is_late, b, a) for a, b in itertools.combinations(ends, 2)]
    return np.concatenate([ends, *between])


def _images(
    replica: Replica, shown: Exploration, images: np.ndarray, bar: tqdm
) -> dict[str, np.ndarray]:
    """Returns the images of each sheet as thumbnails: decoded ones, and the test images."""
    model, params, root_key = replica.model, replica.params, replica.root_key
    sheets = {"tests": images[shown.rows] / MAX_PIXEL}
    for name, latents in shown.latents.items():
        data = Batch(labels=shown.labels.get(name))
        latents = generation.from_base(model, params, latents, data)
        sheets[name] = generation.decode(model, params, latents, data)
        bar.update(len(latents))
    labels = generation.spread_labels(_NUM_SAMPLES, shown.num_selected)
    data = Batch(labels=labels)
    sheets["samples"] = generation.sample(model, params, root_key, _NUM_SAMPLES, data=data)
    bar.update(_NUM_SAMPLES)
    return {name: sprites.thumbnails(replica.shown(each)) for name, each in sheets.items()}


def _script_data(
    shown: Exploration, images: dict[str, np.ndarray], dataset: Dataset
) -> dict[str, Any]:
    """Puts together what the page's script reads."""
    labels, class_names = dataset.test.labels, dataset.class_names
    height, width = images["tests"].shape[1:3]
    return {
        "tile": {"width": width, "height": height, "columns": sprites.COLUMNS},
        "sheets": {name: sprites.pack(each) for name, each in images.items()},
        "corner": shown.corner.tolist(),
        "side": shown.side,
        "cells": _NUM_CELLS,
        "rows": shown.rows.tolist(),
        "points": shown.points.round(4).tolist(),
        "labels": None if labels is None else labels[shown.rows].tolist(),
        "classNames": class_names,
        "isColored": labels is not None and 0 < len(class_names) <= _MAX_COLORED_CLASSES,
        "ends": shown.ends.tolist(),
        "starts": [None, *shown.starts.tolist()],
        "between": _NUM_BETWEEN,
        "variables": shown.variables.tolist(),
        "traversal": _TRAVERSAL.round(2).tolist(),
        "samples": _NUM_SAMPLES,
        "numSelected": shown.num_selected,
    }


def render(replica: Replica, dataset: Dataset) -> str:
    """Renders a model's page as one self-contained HTML file, with a progress bar.

    Raises:
      UserError: the test images are all encoded alike.
    """
    test = dataset.test
    is_quiet = not sys.stderr.isatty()
    with tqdm(total=len(test), desc="encoding", unit=" images", disable=is_quiet) as bar:
        posterior = generation.encode(replica.model, replica.params, to_batch(test))
        bar.update(len(test))
    # Straight lines and planes are those of the space in which the prior is simple.
    base, variance = posterior.mean, posterior.aggregate_moments()[1]
    if isinstance(replica.model.prior, FlowPrior):
        base = generation.to_base(replica.model, replica.params, base, to_batch(test))
        variance = base.var(0, dtype=np.float64)  # of the means: posteriors are no Gaussians there
    shown = choose(base, variance, test.labels, replica.model.num_classes)
    total = sum(map(len, shown.latents.values())) + _NUM_SAMPLES
    with tqdm(total=total, desc="decoding", unit=" images", disable=is_quiet) as bar:
        images = _images(replica, shown, test.images, bar)
    data = _script_data(shown, images, dataset)
    context = {
        "data": data,
        "name": dataset.name,
        "num_tests": len(test),
        "image_shape": dataset.image_shape,
        "latent_size": base.shape[1],
        "epoch": replica.epoch,
        "seed": replica.seed,
        "variance_fraction": shown.plane.variance_fraction,
    }
    return environment(is_html=True).get_template("explorer.html.j2").render(context)
