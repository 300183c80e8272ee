"""The weights that come with the package: as good as promised."""

import pytest

from tests.support.common import needs_mnist
from vae_jax import datasets
from vae_jax.evaluation import digit_classifier


@pytest.fixture(scope="module")
def params():
    return digit_classifier.load_weights()


def accuracy(params, split):
    labels = digit_classifier.classify(params, split.images / 255.0).labels
    return (labels == split.labels).mean()


@needs_mnist
@pytest.mark.slow
def test_accuracy_on_the_test_set(params, prepared_mnist):
    dataset = datasets.load("mnist", prepared_mnist)
    assert len(dataset.test) == 10_000
    assert accuracy(params, dataset.test) >= 0.993


def test_accuracy_on_the_embedded_digits(params):
    # Most of them are training images: only the right weights classify them so well.
    assert accuracy(params, datasets.load("mnist_5k").train) >= 0.993
