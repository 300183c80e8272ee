"""The explorer's page: what it shows is what the model decodes there, and it stays small."""

import base64
import io
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.support.exploring import make_dataset, make_replica
from vae_jax import explore
from vae_jax.evaluation import generation
from vae_jax.reporting import explorer
from vae_jax.runtime.errors import UserError
from vae_jax.training.batches import to_batch
from vae_jax.training.run_directory import RunDirectory

RANDOM = np.random.default_rng(0)
MAX_SIZE = 6_000_000


def data_of(html):
    """What the page's script reads."""
    return json.loads(re.search(r'id="data">(.*?)</script>', html)[1])


def image_at(data, sheet, index):
    """A gray image out of a sheet, as the page's script finds it: `<uint8>[height, width]`."""
    content = base64.b64decode(data["sheets"][sheet].partition("base64,")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    height, width, columns = (data["tile"][name] for name in ("height", "width", "columns"))
    row, column = divmod(index, columns)
    return pixels[row * height :, column * width :][:height, :width]


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    return make_replica(tmp_path_factory.mktemp("replica"))


@pytest.fixture(scope="module")
def dataset():
    return make_dataset(class_names=("cat", "</script><b>dog", "fish"))


@pytest.fixture(scope="module")
def html(replica, dataset):
    return explorer.render(replica, dataset)


@pytest.fixture
def data(html):
    return data_of(html)


@pytest.fixture
def posterior(replica, dataset):
    return generation.encode(replica.model, replica.params, to_batch(dataset.test))


def decoded(replica, latents):
    """What a sheet must hold of latents `<float>[latent]`: dark on light, as digits are."""
    image = generation.decode(replica.model, replica.params, np.float32(latents)[None])[0, ..., 0]
    return (1.0 - image) * 255.0


def assert_shows(image, expected):
    np.testing.assert_allclose(image, expected, atol=0.51)


def test_a_place_of_the_map_shows_the_image_decoded_there(replica, posterior, data):
    means, center = posterior.mean, posterior.mean.mean(0)
    directions = np.linalg.svd(means - center, full_matrices=False)[2][:2]
    # The signs of principal components are free: the page's points tell them.
    corner, side = np.array(data["corner"]), data["side"]
    points = corner + np.array(data["points"]) * (side, -side)
    expected = (means - center) @ directions.T
    signs = np.sign((points * expected).sum(0))
    np.testing.assert_allclose(points, expected * signs, atol=side * 1e-4)
    for column, row in ((0, 0), (31, 4), (9, 31)):
        place = corner + (np.array([column, row]) + 0.5) / data["cells"] * (side, -side)
        latents = center + (place * signs) @ directions
        assert_shows(image_at(data, "map", row * 32 + column), decoded(replica, latents))


def test_points_are_test_images_inside_the_map(dataset, data):
    points = np.array(data["points"])
    assert points.min() == pytest.approx(0.05 / 1.1, abs=1e-3)
    assert points.max() == pytest.approx(1.05 / 1.1, abs=1e-3)
    assert data["rows"] == [*range(60)]
    assert data["labels"] == dataset.test.labels.tolist()
    for point in (0, 59):
        expected = 255 - dataset.test.images[data["rows"][point], ..., 0]
        np.testing.assert_array_equal(image_at(data, "tests", point), expected)


def test_a_traversal_moves_one_latent_variable(replica, posterior, data):
    mean, log_var = posterior.mean, posterior.log_var
    assert data["variables"] == np.argsort(-mean.var(0)).tolist()
    std = np.sqrt(mean.var(0) + np.exp(log_var).mean(0))
    steps = len(data["traversal"])
    for row, step in ((0, 0), (2, steps // 2), (1, steps - 1)):
        latents = mean.mean(0)
        variable = data["variables"][row]
        latents[variable] += data["traversal"][step] * std[variable]
        assert_shows(image_at(data, "traversals", row * steps + step), decoded(replica, latents))
    assert [data["traversal"][index] for index in (0, steps // 2, -1)] == [-3.0, 0.0, 3.0]


def test_an_interpolation_is_a_straight_line_between_latent_means(replica, posterior, data):
    ends, between = posterior.mean[data["ends"]], data["between"]
    assert len(ends) == 20
    pairs = [*itertools.combinations(range(20), 2)]
    for first, last in ((0, 1), (3, 17), (18, 19)):
        index = 20 + pairs.index((first, last)) * between + 1  # the second place between them
        latents = ends[first] + (ends[last] - ends[first]) * 2 / (between + 1)
        assert_shows(image_at(data, "interpolations", index), decoded(replica, latents))
        assert_shows(image_at(data, "interpolations", last), decoded(replica, ends[last]))


def test_samples_are_those_of_the_model(replica, data):
    samples = generation.sample(replica.model, replica.params, replica.root_key, data["samples"])
    for index in (0, len(samples) - 1):
        assert_shows(image_at(data, "samples", index), (1.0 - samples[index, ..., 0]) * 255.0)


def test_a_page_repeats_and_holds_no_external_link(replica, dataset, html):
    assert explorer.render(replica, dataset) == html
    assert not re.search(r"https?:|@import|url\(|src=\"(?!data:)", html)
    assert "<b>dog" not in html
    assert data_of(html)["classNames"][1] == "</script><b>dog"


@pytest.mark.slow
def test_images_without_labels_have_no_legend(tmp_path):
    shape = (12, 12, 3)
    html = explorer.render(make_replica(tmp_path, 1, shape), make_dataset(shape, num_tests=7))
    data = data_of(html)
    assert data["labels"] is None and not data["isColored"]
    assert 'id="legend"' not in html
    assert len(data["ends"]) == 7 and len(data["variables"]) == 1


def test_ends_are_of_all_classes():
    mean = RANDOM.normal(size=(50, 3)).astype(np.float32)
    labels = np.sort(np.arange(50) % 10)
    shown = explorer.choose(mean, np.zeros(3), labels)
    assert labels[shown.places["ends"]].tolist() == np.arange(10).repeat(2).tolist()


def test_equal_latents_are_an_error():
    mean = np.ones((5, 3), np.float32)
    with pytest.raises(UserError, match="nothing to explore"):
        explorer.choose(mean, np.zeros(3), None)


def test_the_largest_page_is_below_its_limit():
    mean = RANDOM.normal(size=(2_001, 32)).astype(np.float32)
    shown = explorer.choose(mean, np.zeros(32), None)
    num_images = len(shown.places["rows"]) + sum(map(len, shown.latents.values())) + 320
    images = explorer.thumbnails(RANDOM.random((256, 20, 64, 3)))  # noise compresses worst
    assert max(images.shape[1:3]) == 32
    noise = RANDOM.integers(0, 256, (256, 32, 32, 3)).astype(np.uint8)
    script_and_points = 150_000
    assert num_images * len(explorer.pack(noise)) / 256 + script_and_points < MAX_SIZE


def test_the_mode_writes_a_page_to_the_output_folder(tiny_run, tmp_path):
    explore.explore(RunDirectory.open(tiny_run), tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / "explorer.html"
    assert path.stat().st_size < MAX_SIZE
    assert not (tiny_run / "explorer.html").exists()
    assert "8 latent variables, epoch 2, seed 0" in path.read_text()
