"""A small classifier of MNIST digits and its weights: the yardstick of sample quality."""

import dataclasses
import functools
from pathlib import Path

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from vae_jax.model.vae import Params, apply
from vae_jax.runtime.batching import map_batches

NUM_DIGITS = 10
NO_DIGIT = NUM_DIGITS  # the class of images that show no digit
WEIGHTS_PATH = Path(__file__).with_suffix(".npz")  # by `benchmarks/train_digit_classifier.py`
_BATCH_SIZE = 500
_DROPOUT_RATE = 0.3


class DigitClassifier(nn.Module):
    """Four convolutions, a dense layer whose outputs are the features, a dense head.

    Its eleventh class is "no digit": a classifier that has to choose a digit takes noise for one of
    the digits that are hard to classify, and its features cannot tell noise from digits.
    """

    @nn.compact
    def __call__(
        self, images: jax.Array, dropout_key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Classifies intensities `<float>[batch, 28, 28, 1]`; without a key dropout is off.

        Returns features and logits, `<float>[batch, 64]` and `<float>[batch, 11]`.
        """
        x = nn.relu(nn.Conv(16, (5, 5), strides=2)(images))
        x = nn.relu(nn.Conv(32, (3, 3))(x))
        x = nn.relu(nn.Conv(48, (3, 3), strides=2)(x))
        x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x))
        features = nn.relu(nn.Dense(64)(x.reshape(x.shape[0], -1)))
        x = features
        if dropout_key is not None:
            x = nn.Dropout(_DROPOUT_RATE)(x, deterministic=False, rng=dropout_key)
        return features, nn.Dense(NUM_DIGITS + 1)(x)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The classifier's predictions for some images."""

    features: np.ndarray  # `<float32>[n, 64]`, the layer before the head
    probabilities: np.ndarray  # `<float32>[n, 10]`, of the digits; the rest to 1 is that of none

    @property
    def labels(self) -> np.ndarray:
        """`<int>[n]`, the likeliest digit of each image."""
        return self.probabilities.argmax(-1)


@jax.jit
def _predict(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    features, logits = apply(DigitClassifier(), params, images)
    return features, jax.nn.softmax(logits)[:, :NUM_DIGITS]


def classify(params: Params, images: np.ndarray) -> Predictions:
    """Classifies images `<float>[n, 28, 28, 1]`, intensities in [0, 1], at least one."""
    function = functools.partial(_predict, params)
    return Predictions(*map_batches(function, _BATCH_SIZE, images.astype(np.float32)))


def load_weights() -> Params:
    """Loads the parameters that come with the package, stored in half precision."""
    with np.load(WEIGHTS_PATH) as arrays:
        flat = {name: arrays[name].astype(np.float32) for name in arrays.files}
    return flax.traverse_util.unflatten_dict(flat, sep="/")
