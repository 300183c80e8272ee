"""The data sets as `load` gives them; without MNIST_DIR on small files in its format."""

import numpy as np
import pytest

from tests.support.common import error_of, needs_mnist
from vae_jax import datasets
from vae_jax.datasets.loading import binarize_for_evaluation


@pytest.fixture
def load_small(small_files, tmp_path):
    def load(**fields):
        folders = {"data_dir": str(tmp_path / "data"), "manual_dir": str(small_files.folder)}
        return datasets.load(**{"validation_size": 20, **folders, **fields})

    return load


@pytest.fixture(scope="module")
def embedded():
    return datasets.load("mnist_5k")


@pytest.mark.slow
@needs_mnist
def test_mnist(prepared_mnist):
    dataset = datasets.load("mnist", data_dir=prepared_mnist)
    assert dataset.sha256 == "32c855bb78f8bbb3f4b0671f42ebf14b3d606fe1cb0f3e93635e44d327e3895c"
    assert dataset.train.images.shape == (55_000, 28, 28, 1)
    assert dataset.validation.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_embedded_digits(embedded):
    assert embedded.sha256 == "a0ac13fe77edcbd1b9e8003cb9ab57a50de4d6cb73a481e311c0649e8c26820e"
    for split, size in ((embedded.train, 4_000), (embedded.validation, 500), (embedded.test, 500)):
        assert split.images.shape == (size, 28, 28, 1) and split.images.dtype == np.uint8
        assert split.labels.tolist() == list(range(10)) * (size // 10)
    assert datasets.load("mnist_5k", "x", "x", validation_size=-1).sha256 == embedded.sha256


def test_validation_is_the_first_training_images(load_small, small_files):
    images = small_files.arrays["train-images-idx3-ubyte.gz"]
    dataset = load_small(validation_size=69)
    np.testing.assert_array_equal(dataset.validation.images[..., 0], images[:69])
    np.testing.assert_array_equal(dataset.train.images[..., 0], images[69:])
    for size in (0, 70):
        expected = f"data.validation_size is {size}, must be from 1 to 69"
        assert expected in error_of(load_small, validation_size=size)


def test_fingerprint_follows_images_labels_and_splits(load_small):
    original = load_small().sha256
    assert load_small().sha256 == original
    assert load_small(validation_size=21).sha256 != original
    assert load_small(binarization="dynamic").sha256 == original


def test_probability_of_each_gray_value():
    values = np.arange(256, dtype=np.uint8)
    images = np.tile(values, (4_900, 1)).reshape(-1, 28, 28)  # each value 4,900 times
    binary = binarize_for_evaluation(images, "test")
    assert binary.dtype == np.uint8 and {*np.unique(binary)} == {0, 255}
    frequency = (binary.reshape(-1, 256) == 255).mean(axis=0)
    assert frequency[0] == 0 and frequency[255] == 1
    probability = values / 255
    error = np.sqrt(probability * (1 - probability) / 4_900)
    assert np.all(np.abs(frequency - probability) <= 4.5 * error)


def test_the_draws_never_change():
    # Pinned: other draws are another test set, and likelihoods would not compare.
    images = np.full((2, 28, 28), 128, np.uint8)
    for name, expected in (("validation", [393, 389]), ("test", [375, 388])):
        white = binarize_for_evaluation(images, name) == 255
        assert white.sum(axis=(1, 2)).tolist() == expected


def test_dynamic_leaves_the_training_images_gray(embedded):
    binary = datasets.load("mnist_5k", binarization="dynamic")
    np.testing.assert_array_equal(binary.train.images, embedded.train.images)
    for name in ("validation", "test"):
        gray, drawn = getattr(embedded, name), getattr(binary, name)
        assert drawn.images.dtype == np.uint8 and {*np.unique(drawn.images)} == {0, 255}
        np.testing.assert_array_equal(drawn.labels, gray.labels)
