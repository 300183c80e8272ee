"""A page to explore a trained model in a browser, in one file with every image decoded."""

import base64
import dataclasses
import io
import itertools
from typing import Any

import numpy as np
from PIL import Image

from vae_jax.datasets import Dataset, Images
from vae_jax.evaluation import generation
from vae_jax.evaluation.latent_statistics import principal_plane
from vae_jax.evaluation.measures import NotMeasured
from vae_jax.evaluation.trained_run import Replica
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.model.priors import FlowPrior
from vae_jax.model.structs import Batch
from vae_jax.reporting.page import render_template
from vae_jax.runtime.errors import UserError
from vae_jax.training.batches import to_batch

_COLUMNS = 32  # of a sheet, which holds many small images in one file
# The sides of an image and its bytes: with the numbers below, the page stays below 6 MB.
_MAX_SIDE = 32
_MAX_BYTES_PER_IMAGE = 720
# The first WebP encoding that is small enough is used; the last is, even for color noise.
_ENCODINGS = ({"lossless": True}, {"quality": 95}, {"quality": 80})
_NUM_CELLS = _COLUMNS  # to a side of the map: its sheet is laid out as the map is
_MAX_POINTS = 2_000
_MAX_VARIABLES = 10
_TRAVERSAL = np.linspace(-3.0, 3.0, 15)  # in standard deviations
_MAX_ENDS = 20
_MAX_SELECTED = 10  # classes of a conditional model to select from
_NUM_BETWEEN = 7  # places between two ends, these not among them
_NUM_SAMPLES = 320
_MARGIN = 0.05  # around the map's points, relative to their extent
_MAX_COLORED_CLASSES = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Exploration:
    """The part of a latent space that a page shows.

    Attributes:
      places: for the page's script, by name.
      variance_fraction: the part of the means' variance that lies in the plane of the map.
      latents: `<float32>[n, latent]` to decode, in the base space of the prior, by sheet.
      labels: `<int32>[n]`, their classes, by sheet; empty unless the model is conditional.
    """

    places: dict[str, Any]
    variance_fraction: float
    latents: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def choose(
    mean: np.ndarray, variance: np.ndarray, labels: np.ndarray | None, num_classes: int = 0
) -> Exploration:
    """Chooses the part of a latent space that a page shows.

    Args:
      mean: `<float>[n, latent]`, of the test images' posteriors.
      variance: `<float>[latent]`, of each latent variable over all of these together.
      labels: `<int>[n]`; None where there are none.
      num_classes: to decode in; map, traversals and samples are repeated in each.

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
    variables = np.argsort(-mean.var(0, dtype=np.float64), kind="stable")[:_MAX_VARIABLES]
    copies = max(num_classes, 1)
    cells = plane.latents_at(_cell_centers(corner, side))
    traversals = _traversals(mean.mean(0, dtype=np.float64), variance, variables)
    latents = {
        "map": np.tile(cells, (copies, 1)),
        "traversals": np.tile(traversals, (copies, 1)),
        "interpolations": _interpolations(mean[rows[ends]]),
    }
    decoded = {}
    if labels is not None and num_classes:
        classes = np.arange(copies, dtype=np.int32)
        decoded = {
            "map": classes.repeat(len(cells)),
            "traversals": classes.repeat(len(traversals)),
            "interpolations": _interpolation_labels(labels[rows[ends]].astype(np.int32)),
        }
    places = {
        "corner": corner.tolist(),  # coordinates of the upper left corner of the map
        "side": side,  # the length of its sides
        "rows": rows.tolist(),  # the test images that are points of the map
        # Where these are, from 0 to 1: to the right, and downwards.
        "points": ((coordinates - corner) / (side, -side)).round(4).tolist(),
        "ends": ends.tolist(),  # the points that interpolations lead from and to
        "variables": variables.tolist(),  # the latent variables to traverse, the most active first
    }
    return Exploration(places, plane.variance_fraction, latents, decoded)


def _spread_out(num: int, max_num: int) -> np.ndarray:
    """Returns evenly spaced indices below `num`, at most `max_num`."""
    return np.linspace(0, num - 1, min(num, max_num)).round().astype(int)


def _pick_ends(labels: np.ndarray | None, num: int) -> np.ndarray:
    """Picks as many images of each class; evenly spaced ones where there are no labels."""
    if labels is None:
        return _spread_out(num, _MAX_ENDS)
    # For each image, how many of its class come before it.
    copies = [np.count_nonzero(labels[:index] == label) for index, label in enumerate(labels)]
    picked = np.lexsort((labels, copies))[:_MAX_ENDS]
    return picked[np.argsort(labels[picked], kind="stable")]


def _cell_centers(corner: np.ndarray, side: float) -> np.ndarray:
    """Returns the coordinates of the map's cells, `<float>[cells, 2]`, row by row."""
    offsets = (np.arange(_NUM_CELLS) + 0.5) * side / _NUM_CELLS
    across, up = np.meshgrid(corner[0] + offsets, corner[1] - offsets)
    return np.stack([across, up], -1).reshape(-1, 2)


def _traversals(origin: np.ndarray, variance: np.ndarray, variables: np.ndarray) -> np.ndarray:
    """Moves one latent variable after the other away from the origin, `<float>[n, latent]`."""
    latents = np.tile(origin, (len(variables), len(_TRAVERSAL), 1))
    for row, variable in enumerate(variables):
        latents[row, :, variable] += _TRAVERSAL * np.sqrt(variance[variable])
    return latents.reshape(-1, len(origin)).astype(np.float32)


def _interpolations(ends: np.ndarray) -> np.ndarray:
    """Returns the ends, then the places between each two of them, from the one named first."""
    weights = np.linspace(0.0, 1.0, _NUM_BETWEEN + 2, dtype=np.float32)[1:-1, None]
    between = [(1 - weights) * a + weights * b for a, b in itertools.combinations(ends, 2)]
    return np.concatenate([ends, *between])


def _interpolation_labels(ends: np.ndarray) -> np.ndarray:
    """Returns the class of each latent vector of `_interpolations`; it changes in the middle."""
    is_late = np.linspace(0.0, 1.0, _NUM_BETWEEN + 2)[1:-1] > 0.5
    between = [np.where(is_late, b, a) for a, b in itertools.combinations(ends, 2)]
    return np.concatenate([ends, *between])


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Makes `<uint8>` images, of at most 32 pixels to a side, of intensities.

    Intensities are `<float>[n, height, width, channels]`.
    """
    pixels = (images.clip(0.0, 1.0) * MAX_PIXEL).round().astype(np.uint8)
    pictures = [_picture(each) for each in pixels]
    for picture in pictures:
        picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BOX)
    shape = (pictures[0].height, pictures[0].width, images.shape[-1])
    return np.stack([np.asarray(picture).reshape(shape) for picture in pictures])


def pack(images: np.ndarray) -> str:
    """Packs `<uint8>[n, height, width, channels]` into a sheet, the first at the upper left.

    Returns:
      The URI of a WebP file, lossless where that is small.
    """
    num, height, width, channels = images.shape
    rows = -(-num // _COLUMNS)
    padded = np.pad(images, [(0, rows * _COLUMNS - num), (0, 0), (0, 0), (0, 0)])
    tiles = padded.reshape(rows, _COLUMNS, height, width, channels).swapaxes(1, 2)
    sheet = _picture(tiles.reshape(rows * height, _COLUMNS * width, channels))
    for options in _ENCODINGS:
        sheet.save(file := io.BytesIO(), "webp", **options)
        if file.tell() <= _MAX_BYTES_PER_IMAGE * num:
            break
    content = file.getvalue()
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


def _make_sheets(
    replica: Replica, shown: Exploration, images: Images, num_classes: int
) -> dict[str, np.ndarray]:
    """Returns the thumbnails of each sheet; the test images are one of them."""
    model, params = replica.model, replica.params
    sheets = {"tests": images[shown.places["rows"]] / MAX_PIXEL}
    for name, latents in shown.latents.items():
        print(f"decoding {len(latents)} images: {name}", flush=True)
        data = Batch(labels=shown.labels.get(name))
        latents = generation.from_base(model, params, latents, data)
        sheets[name] = generation.decode(model, params, latents, data)
    data = Batch(labels=generation.spread_labels(_NUM_SAMPLES, num_classes))
    sheets["samples"] = generation.sample(model, params, replica.root_key, _NUM_SAMPLES, data=data)
    return {name: thumbnails(replica.shown(each)) for name, each in sheets.items()}


def render(replica: Replica, dataset: Dataset) -> str:
    """Renders a model's page as one self-contained HTML file.

    Raises:
      UserError: all test images have the same latent mean.
    """
    model, test, labels = replica.model, dataset.test, dataset.test.labels
    posterior = generation.encode(model, replica.params, to_batch(test))
    # Lines and planes are straight in the space in which the prior is simple.
    base, variance = posterior.mean, posterior.aggregate_moments()[1]
    if isinstance(model.prior, FlowPrior):
        base = generation.to_base(model, replica.params, base, to_batch(test))
        variance = base.var(0, dtype=np.float64)  # of the means: posteriors are not Gaussian there
    num_classes = min(model.num_classes, _MAX_SELECTED)
    shown = choose(base, variance, labels, num_classes)
    sheets = _make_sheets(replica, shown, test.images, num_classes)
    height, width = sheets["tests"].shape[1:3]
    num_names = len(dataset.class_names)
    script_data = shown.places | {
        "tile": {"width": width, "height": height, "columns": _COLUMNS},
        "sheets": {name: pack(images) for name, images in sheets.items()},
        "cells": _NUM_CELLS,
        "labels": None if labels is None else labels[shown.places["rows"]].tolist(),
        "classNames": dataset.class_names,
        "isColored": labels is not None and 0 < num_names <= _MAX_COLORED_CLASSES,
        "between": _NUM_BETWEEN,
        "traversal": _TRAVERSAL.round(2).tolist(),
        "samples": _NUM_SAMPLES,
        "numSelected": num_classes,
    }
    return render_template(
        "explorer.html.j2",
        data=script_data,
        name=dataset.name,
        num_tests=len(test),
        image_shape=dataset.image_shape,
        latent_size=base.shape[1],
        epoch=replica.epoch,
        seed=replica.seed,
        variance_fraction=shown.variance_fraction,
    )
