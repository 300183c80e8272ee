"""The plots: where the pixels go, and that each file is a picture of the right kind."""

import io

import matplotlib.image
import numpy as np
import pytest

from vae_jax.evaluation import plots
from vae_jax.training.metrics import COLUMNS, combine

TERMS = ("loss", "reconstruction", "kl")
IMAGES = np.random.RandomState(0).uniform(size=(2, 10, 28, 28, 1))


def read_gray(path):
    """A PNG as `<float>[height, width]`, 0 for black; it must have no color."""
    pixels = matplotlib.image.imread(path)
    np.testing.assert_allclose(pixels[..., 0], pixels[..., 1], atol=1e-6)
    np.testing.assert_allclose(pixels[..., 0], pixels[..., 2], atol=1e-6)
    return pixels[..., 0]


def test_tile_puts_images_in_rows_with_white_between():
    page = plots.tile(IMAGES)
    assert page.shape == (2 * 30 - 2, 10 * 30 - 2, 1)
    np.testing.assert_array_equal(page[30:58, 60:88], IMAGES[1, 2])
    np.testing.assert_array_equal(page[28:30], 1.0)


def test_an_image_grid_shows_intensities_as_they_are(tmp_path):
    path = tmp_path / "plots" / "samples.png"
    plots.save_image_grid(path, np.ones((2, 10, 28, 28, 1)), "")
    np.testing.assert_array_equal(read_gray(path), 1.0)
    plots.save_image_grid(path, np.zeros((2, 10, 28, 28, 1)), "")
    assert read_gray(path).mean() < 0.6


def test_color_images_are_shown_in_color_and_in_their_proportions(tmp_path):
    images = np.zeros((2, 3, 8, 40, 3))
    images[..., 0] = 1.5  # a draw beyond 1 is as red as can be
    plots.save_image_grid(tmp_path / "red.png", images, "")
    pixels = matplotlib.image.imread(tmp_path / "red.png")[..., :3]
    is_red = (pixels == [1.0, 0.0, 0.0]).all(-1)
    rows, columns = np.flatnonzero(is_red.any(1)), np.flatnonzero(is_red.any(0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert width / height == pytest.approx((3 * 42 - 2) / (2 * 10 - 2), rel=0.05)
    assert is_red.sum() > 0.7 * width * height


def test_every_pixel_of_a_large_image_is_shown():
    height, width = plots._inches(np.zeros((1, 1, 150, 100, 1)))
    assert (height * plots._DPI, width * plots._DPI) == pytest.approx((150, 100), rel=1e-6)
    assert plots._inches(np.zeros((1, 28, 28, 1)))[0] <= 1.0


@pytest.mark.parametrize("num_rows", [1, 3])
def test_reconstructions_show_both(tmp_path, num_rows):
    path = tmp_path / "reconstructions.png"
    images = np.zeros((num_rows, 10, 28, 28, 1))
    plots.save_reconstructions(path, images, np.ones_like(images))
    half = read_gray(path).mean()
    plots.save_reconstructions(path, images, images)
    assert read_gray(path).mean() < half - 0.2


def test_interpolation_has_one_scale_for_all(tmp_path):
    path = tmp_path / "interpolation.png"
    zeros = np.zeros((3, 28, 28, 1))
    plots.save_interpolation(path, zeros, np.zeros((3, 5, 28, 28, 1)), zeros)
    black = read_gray(path) < 0.1
    columns = black[:, black.mean(0) > 0.5]
    assert columns.shape[1] > black.shape[1] / 2
    # Below the titles, rows of images begin and end at the same heights in every column.
    below = columns[np.argmax(columns.mean(1) > 0.9) :]
    np.testing.assert_array_equal(below, np.broadcast_to(below[:, :1], below.shape))


def test_loss_curves(tmp_path):
    rows = [dict.fromkeys(COLUMNS, 100.0 / epoch) | {"epoch": epoch} for epoch in (1, 2, 3)]
    plots.save_loss_curves(tmp_path / "loss_curves.png", rows, best_epoch=3)
    pixels = matplotlib.image.imread(tmp_path / "loss_curves.png")
    assert pixels.shape[1] > 2.5 * pixels.shape[0]  # three panels
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 100


def test_loss_curves_need_no_number_that_an_epoch_did_not_measure(tmp_path):
    rows = [dict.fromkeys(COLUMNS, 100.0 / epoch) | {"epoch": epoch} for epoch in (1, 2)]
    plots.save_loss_curves(tmp_path / "a.png", rows, best_epoch=2)
    rows[0]["kl_weight"] = 0.5  # as in the epochs of the ELBO before an importance-weighted bound
    plots.save_loss_curves(tmp_path / "b.png", rows, best_epoch=2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "loss, title", [((100.0, 90.0), "Total (negative ELBO)"), ((100.0, 88.0), "Loss")]
)
def test_only_a_sum_of_its_terms_is_called_the_negative_elbo(loss, title):
    terms = {"loss": loss, "reconstruction": (75.0, 66.0), "kl": (25.0, 24.0)}
    assert plots._titles([terms])["loss"] == title
    plain = terms | {"loss": (100.0, 90.0)}
    assert plots._titles([plain, terms])["loss"] == title  # of several runs, all


def test_loss_curves_are_titled_by_training_and_validation():
    curves = {f"{split}_{term}": np.ones(3) for split in ("train", "validation") for term in TERMS}
    of_splits = plots._of_splits(curves | {"validation_loss": np.full(3, 2.0)})
    assert [plots._titles([terms])["loss"] for terms in of_splits] == [
        "Loss",
        "Total (negative ELBO)",
    ]


def test_loss_curves_of_replicas_have_bands(tmp_path):
    rows = [dict.fromkeys(COLUMNS, 100.0 / epoch) | {"epoch": epoch} for epoch in (1, 2, 3)]
    colored = []
    for std in (None, 1.0, 20.0):
        if std:
            rows = [
                row | {name: std for name in combine([row, row]) if name.endswith("_std")}
                for row in rows
            ]
        path = tmp_path / f"{std}.png"
        plots.save_loss_curves(path, rows, best_epoch=3)
        pixels = matplotlib.image.imread(path)[..., :3]
        colored.append(np.mean(np.ptp(pixels, axis=-1) > 0.05))
    assert colored[0] < colored[1] < colored[2]


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        plots.save_image_grid(tmp_path / name, IMAGES, "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def colored_pixels(png):
    """How many pixels have a color that is no gray, and how many such colors there are."""
    pixels = matplotlib.image.imread(io.BytesIO(png))[..., :3]
    colored = pixels[np.ptp(pixels, axis=-1) > 0.3]
    return len(colored), len(np.unique(colored.round(1), axis=0))


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


def test_overlaid_curves_show_every_run():
    def curves(level):
        return {column: level + 50.0 / np.arange(1, 31) for column in COLUMNS}

    one = colored_pixels(plots.overlay_loss_curves([("a", curves(100.0))]))
    runs = [("a", curves(100.0)), ("b", curves(110.0)), ("c", curves(120.0))]
    three = colored_pixels(plots.overlay_loss_curves(runs))
    assert three[0] > 2 * one[0]
    assert three[1] > one[1]


def test_curves_that_are_flat_are_drawn_without_a_warning():
    curves = dict.fromkeys(COLUMNS, np.zeros(2))  # the KL of a collapsed posterior
    assert colored_pixels(plots.overlay_loss_curves([("a", curves)]))[0]


def test_names_are_drawn_as_they_are_whatever_they_hold():
    assert plots._label("lr_1e-3 ±é") == "lr_1e-3 ±é"
    assert plots._label("模型") == r"\u6a21\u578b"  # which the font lacks
    assert plots._label("$x^$") == r"\$x^\$"
    names = ["模型", "$x^$", "_hidden", "a\nb", "\udcff", "%s {}"]
    curves = dict.fromkeys(COLUMNS, np.arange(3.0))
    plots.overlay_loss_curves([(name, curves) for name in names])
    plots.plot_kl_per_dimension({name: np.ones(2) for name in names})


def test_class_names_are_escaped_numbered_or_cut():
    assert plots._class_label(0, "cat") == "cat"
    assert plots._class_label(0, "$0_$50") == r"\$0_\$50"
    assert plots._class_label(3, "模型") == "class 3"
    assert plots._class_label(3, "a\nb") == "class 3"
    assert plots._class_label(0, "x" * 24) == "x" * 24
    assert plots._class_label(0, "begin" + "x" * 90 + "endofname") == "beginxxxxxxxx...ndofname"


@pytest.mark.parametrize(
    "names",
    [["$", "$$", "$0_$50"], ["猫", "犬", "鸟"], ["a_" * 60, "b", "%s"], ["_", "", "\udcff"]],
)
def test_the_latent_map_takes_any_class_names(tmp_path, names, recwarn):
    maps = {"PCA": np.random.RandomState(0).normal(size=(60, 2))}
    plots.save_latent_map(tmp_path / "any.png", maps, np.arange(60) % 3, names)
    assert not recwarn.list
    plots.save_latent_map(tmp_path / "short.png", maps, np.arange(60) % 3, ["a", "b", "c"])
    any_names, short = (
        colored_pixels((tmp_path / f"{name}.png").read_bytes()) for name in ("any", "short")
    )
    assert any_names[1] > 0.5 * short[1]  # the map has its room


def test_latent_sizes_are_drawn_with_error_bars():
    terms = {"loss": 100.0, "reconstruction": 75.0, "kl": 25.0}
    drawn = [
        colored_pixels(
            plots.plot_latent_sizes(
                {
                    "baseline": [
                        plots.LatentSizePoint(2, terms, dict.fromkeys(terms, std)),
                        plots.LatentSizePoint(
                            16, dict.fromkeys(terms, 90.0), dict.fromkeys(terms, std)
                        ),
                    ]
                }
            )
        )[0]
        for std in (None, 2.0)
    ]
    assert 0 < drawn[0] < drawn[1]
