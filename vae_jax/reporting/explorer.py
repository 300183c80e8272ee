"""A page to explore a trained model in a browser, in one file with every image decoded."""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from vae_jax.datasets import Dataset, Images
from vae_jax.evaluation import generation, plots
from vae_jax.evaluation.latent_statistics import principal_plane
from vae_jax.evaluation.trained_run import Replica
from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.model.priors import FlowPrior
from vae_jax.model.structs import Batch
from vae_jax.reporting.page import data_uri, render_template
from vae_jax.runtime.errors import UserError
from vae_jax.training.batches import to_batch

_COLUMNS = 32  # of a sheet, which holds many small images in one file
_MAX_SIDE = 32  # of an image
_NUM_CELLS = _COLUMNS  # to a side of the map: its sheet is laid out as the map is
_MAX_POINTS = 2_000
_MAX_VARIABLES = 10
_TRAVERSAL = np.linspace(-3.0, 3.0, 15)  # in standard deviations
_MAX_SELECTED = 10  # classes of a conditional model to select from
_NUM_SAMPLES = 320
_MARGIN = 0.05  # around the map's points, relative to their extent


@dataclasses.dataclass(frozen=True, eq=False)
class Exploration:
    """The part of a latent space that a page shows."""

    rows: np.ndarray  # the test images that are points of the map
    points: np.ndarray  # `<float>[rows, 2]`, places from 0 to 1: to the right, and downwards
    variables: np.ndarray  # the latent variables to traverse, the most active first
    variance_fraction: float  # of the means' variance, the part in the plane of the map
    # To decode, `<float32>[n, latent]` in the base space of the prior, by sheet.
    latents: dict[str, np.ndarray]


def choose(mean: np.ndarray, variance: np.ndarray) -> Exploration:
    """Chooses the part that a page shows of a latent space, from the test images' posteriors.

    Their means are `<float>[n, latent]`, the variance of all of them together `<float>[latent]`.

    Raises:
      UserError: the means do not differ, so that there is no map.
    """
    try:
        plane = principal_plane(mean)
    except ValueError as error:
        raise UserError(f"there is nothing to explore: {error}") from error
    rows = np.linspace(0, len(mean) - 1, min(len(mean), _MAX_POINTS)).round().astype(int)
    coordinates = plane.transform(mean[rows]).astype(np.float64)
    low, high = coordinates.min(0), coordinates.max(0)
    side = float((high - low).max()) * (1.0 + 2.0 * _MARGIN)
    corner = (low + high) / 2.0 + np.array([-side, side]) / 2.0  # the upper left one
    offsets = (np.arange(_NUM_CELLS) + 0.5) * side / _NUM_CELLS
    cells = np.stack(np.meshgrid(corner[0] + offsets, corner[1] - offsets), -1).reshape(-1, 2)
    variables = np.argsort(-mean.var(0, dtype=np.float64), kind="stable")[:_MAX_VARIABLES]
    # From the mean one latent variable after the other moves, `<float>[variables, steps, latent]`.
    moves = np.diag(np.sqrt(variance))[variables, None] * _TRAVERSAL[:, None]
    traversals = mean.mean(0, dtype=np.float64) + moves
    return Exploration(
        rows=rows,
        points=(coordinates - corner) / (side, -side),
        variables=variables,
        variance_fraction=float(plane.explained_variance_ratio_.sum()),
        latents={
            "map": plane.inverse_transform(cells).astype(np.float32),
            "traversals": traversals.reshape(-1, mean.shape[1]).astype(np.float32),
        },
    )


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Makes `<uint8>`, at most 32 pixels to a side, of `<float>[n, height, width, channels]`."""
    pixels = (images.clip(0.0, 1.0) * MAX_PIXEL).round().astype(np.uint8)
    pictures = [_picture(each) for each in pixels]
    for picture in pictures:
        picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BOX)
    shape = (pictures[0].height, pictures[0].width, images.shape[-1])
    return np.stack([np.asarray(picture).reshape(shape) for picture in pictures])


def pack(images: np.ndarray) -> str:
    """Packs `<uint8>[n, height, width, channels]` into a sheet: the URI of a WebP file."""
    num, height, width, channels = images.shape
    rows = -(-num // _COLUMNS)
    padded = np.pad(images, [(0, rows * _COLUMNS - num), (0, 0), (0, 0), (0, 0)])
    tiles = padded.reshape(rows, _COLUMNS, height, width, channels).swapaxes(1, 2)
    sheet = _picture(tiles.reshape(rows * height, _COLUMNS * width, channels))
    sheet.save(file := io.BytesIO(), "webp", lossless=channels == 1, quality=80)
    return data_uri(file.getvalue(), "webp")


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


def _make_sheets(
    replica: Replica, shown: Exploration, images: Images, num_classes: int
) -> dict[str, np.ndarray]:
    """Returns the thumbnails of each sheet; latents are decoded in one class after another."""
    model, params = replica.model, replica.params
    sheets = {"tests": images[shown.rows] / MAX_PIXEL}
    for name, latents in shown.latents.items():
        latents = np.tile(latents, (max(1, num_classes), 1))
        data = Batch(labels=generation.spread_labels(len(latents), num_classes))
        print(f"decoding {len(latents)} images: {name}", flush=True)
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
    model, test, names = replica.model, dataset.test, dataset.class_names
    posterior = generation.encode(model, replica.params, to_batch(test))
    # Lines and planes are straight in the space in which the prior is simple.
    base, variance = posterior.mean, posterior.aggregate_variance()
    if isinstance(model.prior, FlowPrior):
        base = generation.to_base(model, replica.params, base, to_batch(test))
        variance = base.var(0, dtype=np.float64)  # of the means: posteriors are not Gaussian there
    num_classes = min(model.num_classes, _MAX_SELECTED)
    shown = choose(base, variance)
    sheets = _make_sheets(replica, shown, test.images, num_classes)
    height, width = sheets["tests"].shape[1:3]
    script_data: dict[str, Any] = {
        "tile": {"width": width, "height": height, "columns": _COLUMNS},
        "sheets": {name: pack(images) for name, images in sheets.items()},
        "cells": _NUM_CELLS,
        "rows": shown.rows.tolist(),
        "points": shown.points.round(4).tolist(),
        "variables": shown.variables.tolist(),
        "traversal": _TRAVERSAL.round(2).tolist(),
        "labels": None if test.labels is None else test.labels[shown.rows].tolist(),
        "classNames": names,
        "isColored": test.labels is not None and 0 < len(names) <= plots.MAX_COLORED_CLASSES,
        "samples": _NUM_SAMPLES,
        "numSelected": num_classes,
    }
    return render_template(
        "explorer.html.j2",
        data=script_data,
        dataset=dataset,
        replica=replica,
        latent_size=base.shape[1],
        variance_fraction=shown.variance_fraction,
    )
