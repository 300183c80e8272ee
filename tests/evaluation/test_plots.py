"""The plots and the grids of images: where the pixels go, and that each file is a picture."""

import io

import matplotlib.image
import numpy as np
import pytest

from vae_jax.evaluation import image_output, plots
from vae_jax.training.metrics import COLUMNS

IMAGES = np.random.RandomState(0).uniform(size=(2, 10, 28, 28, 1))


def colored_pixels(png):
    """The number of pixels with a color, and the number of such colors."""
    pixels = matplotlib.image.imread(io.BytesIO(png))[..., :3]
    colored = pixels[np.ptp(pixels, axis=-1) > 0.3]
    return len(colored), len(np.unique(colored.round(1), axis=0))


def test_a_grid_shows_intensities_as_they_are(tmp_path):
    page = image_output.tile(IMAGES)
    assert page.shape == (2 * 30 - 2, 10 * 30 - 2, 1)
    np.testing.assert_array_equal(page[30:58, 60:88], IMAGES[1, 2])
    np.testing.assert_array_equal(page[28:30], 1.0)
    path = tmp_path / "plots" / "samples.png"
    image_output.save_grid(path, IMAGES)
    written = matplotlib.image.imread(path)
    np.testing.assert_allclose(written[::3, ::3], page[..., 0], atol=1 / 255)
    red = np.zeros((1, 1, 300, 200, 3))
    red[..., 0] = 1.5  # a draw beyond 1 is as red as can be
    image_output.save_grid(path, red)
    np.testing.assert_array_equal(matplotlib.image.imread(path), red.clip(0.0, 1.0)[0, 0])


def test_the_latent_map_colors_points_by_class(tmp_path):
    points = np.random.RandomState(0).normal(size=(500, 2))

    def colors(labels, num_classes):
        names = [f"class {index}" for index in range(num_classes)]
        maps = {"PCA": points, "t-SNE": points}
        plots.save_latent_map(tmp_path / "map.png", maps, labels, names)
        return colored_pixels((tmp_path / "map.png").read_bytes())

    one, ten = colors(np.full(500, 3), 10), colors(np.arange(500) % 10, 10)
    assert one[0] > 1000  # the color bar has all colors
    assert ten[1] > one[1]
    without = colors(None, 0)
    assert 0 < without[1] < one[1]
    assert colors(np.arange(500) % 15, 15)[1] > 2 * without[1]
    assert colors(np.arange(500) % 21, 21) == without  # too many to be told apart


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["$", "$$", "$0_$50"], ["a_" * 60, "b", "%s"], ["_", "", "\udcff"]]
)
def test_names_of_classes_and_runs_may_be_anything(tmp_path, names):
    maps, sizes = {"PCA": np.random.RandomState(0).normal(size=(60, 2))}, []
    for each in (names, ["a", "b", "c"]):
        plots.save_latent_map(tmp_path / "map.png", maps, np.arange(60) % 3, each)
        sizes.append(colored_pixels((tmp_path / "map.png").read_bytes())[1])
    assert sizes[0] > 0.5 * sizes[1]  # the map has its room
    curves = dict.fromkeys(COLUMNS, np.arange(3.0))
    plots.overlay_loss_curves([(name, curves) for name in names])


@pytest.mark.slow
def test_overlaid_curves_show_every_run():
    def curves(level):
        return {column: level + 50.0 / np.arange(1, 31) for column in COLUMNS}

    one = colored_pixels(plots.overlay_loss_curves([("a", curves(100.0))]))
    runs = [("a", curves(100.0)), ("b", curves(110.0)), ("c", curves(120.0))]
    three = colored_pixels(plots.overlay_loss_curves(runs))
    assert three[0] > 2 * one[0]
    assert three[1] > one[1]
    flat = dict.fromkeys(COLUMNS, np.zeros(2))  # the KL of a collapsed posterior
    assert colored_pixels(plots.overlay_loss_curves([("a", flat)]))[0]
