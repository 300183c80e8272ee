"""The weights that come with the package: the right file, small, and as good as promised."""

import unittest.mock

import numpy as np
import pytest

from tests.support.common import needs_mnist
from vae_jax import datasets
from vae_jax.evaluation import digit_classifier
from vae_jax.evaluation.digit_classifier import train, weights
from vae_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def params():
    return digit_classifier.load_weights()


def test_the_file_is_small():
    assert digit_classifier.WEIGHTS_PATH.stat().st_size <= 500_000


@needs_mnist
@pytest.mark.slow
def test_accuracy_on_the_test_set(params, prepared_mnist):
    dataset = datasets.load("mnist", prepared_mnist)
    assert len(dataset.test) == 10_000
    assert train.accuracy(params, dataset.test) >= 0.993


def test_accuracy_on_the_embedded_digits(params):
    # Most of them are training images: this tells that the weights are the right ones.
    assert train.accuracy(params, datasets.load("mnist_5k").train) >= 0.993


def test_predictions_do_not_depend_on_how_many_there_are(params):
    images = datasets.load("mnist_5k").test.images.astype(np.float32) / 255.0
    images = np.concatenate([images, images[:100]])
    together = digit_classifier.classify(params, images)
    alone = digit_classifier.classify(params, images[500:510])
    assert together.features.shape == (600, 64)
    np.testing.assert_allclose(together.probabilities.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(together.features[500:510], alone.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(together.labels, together.probabilities.argmax(1))
    np.testing.assert_array_equal(together.confidence, together.probabilities.max(1))


def test_other_weights_are_refused(monkeypatch, tmp_path, params):
    path = tmp_path / "weights.npz"
    monkeypatch.setattr(weights, "WEIGHTS_PATH", path)
    with pytest.raises(UserError, match=r"weights\.npz: cannot be read \(No such file"):
        digit_classifier.load_weights()
    content = bytearray(digit_classifier.WEIGHTS_PATH.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.npz: has SHA-256 .*, should have"):
        digit_classifier.load_weights()


@pytest.mark.parametrize(
    ("output", "more", "expected"),
    [
        ("missing/weights.npz", (), "missing/weights.npz: No such file or directory; "),
        (".", (), "is a folder; give a file"),
        ("gs://bucket/weights.npz", (), "--output=gs://bucket/weights.npz: is an address"),
        ("~no_such_user/weights.npz", (), "there is no such home folder"),
        ("weights.npz", ("--manual_dir=missing",), "data.manual_dir=missing is not a folder"),
        ("weights.npz", ("--data_dir=s3://bucket",), "data.data_dir=s3://bucket: is an address"),
    ],
)
def test_a_mistake_is_one_line_before_the_training(tmp_path, monkeypatch, output, more, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as exit_:
        train.main([f"--output={output}", *more])
    assert exit_.value.code.startswith("error: ")
    assert expected in exit_.value.code
    assert "\n" not in exit_.value.code
    assert not list(tmp_path.glob("*"))


def test_an_interrupted_training_ends_with_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.datasets, "load", unittest.mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit) as exit_:
        train.main([f"--output={tmp_path / 'weights.npz'}"])
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "ended by SIGINT; no weights are written\n"


@pytest.mark.slow
def test_training_learns_and_repeats(monkeypatch):
    monkeypatch.setattr(train, "_NUM_EPOCHS", 4)
    dataset = datasets.load("mnist_5k")
    first, second = (weights.to_bytes(train.train(dataset.train[:1000])) for _ in range(2))
    assert first == second
    learned = weights.from_bytes(first)
    assert train.accuracy(learned, dataset.test) > 0.6
