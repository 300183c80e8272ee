"""The explorer's page: what it shows is what the model decodes there, and it stays small."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.support.exploring import make_dataset, make_replica
from vae_jax.evaluation import generation
from vae_jax.reporting import explorer
from vae_jax.runtime.errors import UserError
from vae_jax.training.batches import to_batch

RANDOM = np.random.default_rng(0)


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


def assert_shows(image, replica, latents):
    """Asserts that an image is decoded from `<float>[latent]`: dark on light, as digits are."""
    decoded = generation.decode(replica.model, replica.params, np.float32(latents)[None])[0, ..., 0]
    np.testing.assert_allclose(image, (1.0 - decoded) * 255.0, atol=0.51)


def test_a_place_of_the_map_shows_the_image_decoded_there(replica, posterior, data):
    means, center = posterior.mean, posterior.mean.mean(0)
    directions = np.linalg.svd(means - center, full_matrices=False)[2][:2]
    coordinates = (means - center) @ directions.T
    # The map is to scale; the signs of principal components are free.
    places = np.column_stack([data["points"], np.ones(len(means))])
    to_coordinates = np.linalg.lstsq(places, coordinates)[0]
    np.testing.assert_allclose(places @ to_coordinates, coordinates, atol=1e-3)
    scale = np.abs(to_coordinates[:2])
    np.testing.assert_allclose(scale, np.eye(2) * scale[0, 0], atol=1e-3)
    for column, row in ((0, 0), (31, 4), (9, 31)):
        place = [(column + 0.5) / data["cells"], (row + 0.5) / data["cells"], 1.0]
        latents = center + place @ to_coordinates @ directions
        assert_shows(image_at(data, "map", row * 32 + column), replica, latents)


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
        assert_shows(image_at(data, "traversals", row * steps + step), replica, latents)
    assert [data["traversal"][index] for index in (0, steps // 2, -1)] == [-3.0, 0.0, 3.0]


def test_samples_are_those_of_the_model(replica, data):
    samples = generation.sample(replica.model, replica.params, replica.root_key, data["samples"])
    shown = image_at(data, "samples", len(samples) - 1)
    np.testing.assert_allclose(shown, (1.0 - samples[-1, ..., 0]) * 255.0, atol=0.51)


def test_a_page_repeats_and_holds_no_external_link(replica, dataset, html):
    assert explorer.render(replica, dataset) == html
    assert not re.search(r"https?:|@import|url\(|src=\"(?!data:)", html)
    assert "<b>dog" not in html
    assert data_of(html)["classNames"][1] == "</script><b>dog"


def test_equal_latents_are_an_error():
    with pytest.raises(UserError, match="nothing to explore"):
        explorer.choose(np.ones((5, 3), np.float32), np.zeros(3))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_largest_page_is_below_its_limit(channels):
    shown = explorer.choose(RANDOM.normal(size=(2_001, 32)).astype(np.float32), np.zeros(32))
    num_images = len(shown.rows) + sum(map(len, shown.latents.values())) + 320
    noise = explorer.thumbnails(RANDOM.random((256, 64, 64, channels)))  # compresses worst
    assert noise.shape[1:3] == (32, 32)
    script_and_points = 150_000
    assert num_images * len(explorer.pack(noise)) / 256 + script_and_points < 6e6
