"""The plots: where the pixels go, and that each file is a picture of the right kind."""

import io

import matplotlib.image
import numpy as np
import pytest

from vae_jax.evaluation import plots
from vae_jax.training.metrics import COLUMNS, combine

TERMS = ("loss", "reconstruction", "kl")
IMAGES = np.random.RandomState(0).uniform(size=(2, 10, 28, 28, 1))
ROWS = [dict.fromkeys(COLUMNS, 100.0 / epoch) | {"epoch": epoch} for epoch in (1, 2, 3)]


def read_gray(path):
    """A PNG without colors as `<float>[height, width]`, 0 for black."""
    pixels = matplotlib.image.imread(path)[..., :3]
    assert np.ptp(pixels, axis=-1).max() < 1e-6
    return pixels[..., 0]


def colored_pixels(png):
    """The number of pixels with a color, and the number of such colors."""
    pixels = matplotlib.image.imread(io.BytesIO(png))[..., :3]
    colored = pixels[np.ptp(pixels, axis=-1) > 0.3]
    return len(colored), len(np.unique(colored.round(1), axis=0))


def test_an_image_grid_shows_intensities_as_they_are(tmp_path):
    page = plots.tile(IMAGES)
    assert page.shape == (2 * 30 - 2, 10 * 30 - 2, 1)
    np.testing.assert_array_equal(page[30:58, 60:88], IMAGES[1, 2])
    np.testing.assert_array_equal(page[28:30], 1.0)
    path = tmp_path / "plots" / "samples.png"
    plots.save_image_grid(path, np.ones((2, 10, 28, 28, 1)), "")
    np.testing.assert_array_equal(read_gray(path), 1.0)
    plots.save_image_grid(path, np.zeros((2, 10, 28, 28, 1)), "")
    assert read_gray(path).mean() < 0.6
    before = path.read_bytes()
    plots.save_image_grid(path, np.zeros((2, 10, 28, 28, 1)), "")
    assert path.read_bytes() == before
    plots.save_image_grid(path, np.zeros((1, 1, 300, 200, 1)), "")
    assert (read_gray(path) == 0.0).any(1).sum() >= 0.9 * 4.0 * plots._DPI  # its largest size


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


@pytest.mark.parametrize("num_rows", [1, 3])
def test_reconstructions_show_both(tmp_path, num_rows):
    path = tmp_path / "reconstructions.png"
    images = np.zeros((num_rows, 10, 28, 28, 1))
    plots.save_reconstructions(path, images, np.ones_like(images))
    half = read_gray(path).mean()
    plots.save_reconstructions(path, images, images)
    assert read_gray(path).mean() < half - 0.2


def test_interpolation_has_the_ends_at_the_sides(tmp_path):
    path, ones = tmp_path / "interpolation.png", np.ones((3, 28, 28, 1))
    plots.save_interpolation(path, 0 * ones, np.ones((3, 5, 28, 28, 1)), ones)
    dark = np.flatnonzero((read_gray(path) < 0.1).mean(0) > 0.5)
    assert 0 < dark[-1] < read_gray(path).shape[1] / 3


@pytest.mark.slow
def test_loss_curves_have_three_panels_and_bands_of_replicas(tmp_path):
    colored = []
    for std in (None, 1.0, 20.0):
        stds = {n: std for n in combine(ROWS[:2]) if n.endswith("_std")} if std else {}
        rows = [row | stds for row in ROWS]
        rows[0]["kl_weight"] = 0.5  # not measured in every epoch
        plots.save_loss_curves(tmp_path / "curves.png", rows, best_epoch=3)
        pixels = matplotlib.image.imread(tmp_path / "curves.png")[..., :3]
        assert pixels.shape[1] > 2.5 * pixels.shape[0]
        colored.append(np.mean(np.ptp(pixels, axis=-1) > 0.05))
    assert 0 < colored[0] < colored[1] < colored[2]


def test_only_a_sum_of_its_terms_is_called_the_negative_elbo():
    plain = {"loss": (100.0, 90.0), "reconstruction": (75.0, 66.0), "kl": (25.0, 24.0)}
    other = plain | {"loss": (100.0, 88.0)}
    titles = [plots._titles(runs)["loss"] for runs in ([plain], [other], [plain, other])]
    assert titles == ["Total (negative ELBO)", "Loss", "Loss"]
    curves = {f"{split}_{term}": np.ones(3) for split in ("train", "validation") for term in TERMS}
    of_splits = plots._of_splits(curves | {"validation_loss": np.full(3, 2.0)})
    assert [plots._titles([terms])["loss"] for terms in of_splits] == ["Loss", titles[0]]


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
    "names",
    [["$", "$$", "$0_$50"], ["猫", "犬", "鸟"], ["a_" * 60, "b", "%s"], ["_", "", "\udcff"]],
)
def test_names_of_classes_and_runs_may_be_anything(tmp_path, names):
    maps, sizes = {"PCA": np.random.RandomState(0).normal(size=(60, 2))}, []
    for each in (names, ["a", "b", "c"]):
        plots.save_latent_map(tmp_path / "map.png", maps, np.arange(60) % 3, each)
        sizes.append(colored_pixels((tmp_path / "map.png").read_bytes())[1])
    assert sizes[0] > 0.5 * sizes[1]  # the map has its room
    curves = dict.fromkeys(COLUMNS, np.arange(3.0))
    plots.overlay_loss_curves([(name, curves) for name in names])
    plots.plot_kl_per_dimension({name: np.ones(2) for name in names})


def test_a_class_whose_name_the_font_lacks_is_named_by_number():
    assert [plots._class_label(*item) for item in enumerate(["猫", "é"])] == ["class 0", "é"]


def test_labels_escape_what_a_plot_would_not_show():
    assert plots._label("lr_1e-3 ±é") == "lr_1e-3 ±é"
    assert plots._label("模型") == r"\u6a21\u578b"  # which the font lacks
    assert plots._label("$x^$") == r"\$x^\$"
    assert plots._label("begin" + "x" * 90 + "endofname", 24) == "beginxxxxxxxx...ndofname"


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


def test_latent_sizes_are_drawn_with_error_bars():
    drawn = []
    for std in (None, 2.0):
        stds = dict.fromkeys(TERMS, std)
        points = [
            plots.LatentSizePoint(size, dict.fromkeys(TERMS, loss), stds)
            for size, loss in ((2, 100.0), (16, 90.0))
        ]
        drawn.append(colored_pixels(plots.plot_latent_sizes({"baseline": points}))[0])
    assert 0 < drawn[0] < drawn[1]
