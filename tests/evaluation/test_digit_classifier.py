"""The weights that come with the package: as good as promised."""

import pytest

from tests.support.common import needs_mnist
from vae_jax import datasets
from vae_jax.evaluation import digit_classifier


@needs_mnist
@pytest.mark.slow
def test_accuracy_on_the_test_set(prepared_mnist):
    test = datasets.load("mnist", prepared_mnist).test
    predictions = digit_classifier.classify(digit_classifier.load_weights(), test.images / 255.0)
    assert (predictions.labels == test.labels).mean() >= 0.993
