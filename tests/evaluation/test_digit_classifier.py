"""The weights that come with the package: the right file, small, and as good as promised."""

import numpy as np
import pytest

from tests.support.common import error_of, needs_mnist
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


def test_predictions_do_not_depend_on_how_many_there_are(params):
    images = datasets.load("mnist_5k").test.images.astype(np.float32) / 255.0
    together = digit_classifier.classify(params, np.concatenate([images, images[:100]]))
    alone = digit_classifier.classify(params, images[490:500])
    assert together.features.shape == (600, 64)
    np.testing.assert_allclose(together.probabilities.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(together.features[490:500], alone.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(together.labels, together.probabilities.argmax(1))
    np.testing.assert_array_equal(together.confidence, together.probabilities.max(1))


def test_other_weights_are_refused(monkeypatch, tmp_path):
    content = bytearray(digit_classifier.WEIGHTS_PATH.read_bytes())
    assert len(content) <= 500_000
    monkeypatch.setattr(digit_classifier, "WEIGHTS_PATH", tmp_path / "weights.npz")
    assert "cannot be read (No such file" in error_of(digit_classifier.load_weights)
    content[1000] ^= 1
    (tmp_path / "weights.npz").write_bytes(content)
    assert "should have" in error_of(digit_classifier.load_weights)
