"""The network, and what it says of many images."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

NUM_DIGITS = 10
# The class behind the digits': an image that shows none.
NO_DIGIT = NUM_DIGITS
NUM_FEATURES = 64
_BATCH_SIZE = 500
_DROPOUT_RATE = 0.3


class DigitClassifier(nn.Module):
    """Four convolutions, a dense layer whose outputs are the features, a dense head.

    Its eleventh class is "no digit": a classifier that has to choose a digit puts noise where the
    digits are that it finds hard, and features that do so cannot tell noise from digits.
    """

    @nn.compact
    def __call__(
        self, images: jax.Array, dropout_key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Classifies images.

        Args:
          images: `<float>[batch, 28, 28]`, ink in [0, 1].
          dropout_key: key of the dropout masks; without one dropout is off.

        Returns:
          `(features, logits)`, `<float>[batch, 64]` and `<float>[batch, 11]`.
        """
        x = images[..., None]
        x = nn.relu(nn.Conv(16, (5, 5), strides=2)(x))
        x = nn.relu(nn.Conv(32, (3, 3))(x))
        x = nn.relu(nn.Conv(48, (3, 3), strides=2)(x))
        x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x))
        features = nn.relu(nn.Dense(NUM_FEATURES)(x.reshape(x.shape[0], -1)))
        x = features
        if dropout_key is not None:
            x = nn.Dropout(_DROPOUT_RATE)(x, deterministic=False, rng=dropout_key)
        return features, nn.Dense(NUM_DIGITS + 1)(x)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What the classifier says of some images.

    Attributes:
      features: `<float32>[n, 64]`, the layer before the head.
      probabilities: `<float32>[n, 10]`, of the digits; what they lack to 1 is that of none.
    """

    features: np.ndarray
    probabilities: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """`<int>[n]`, the likeliest digit of each image."""
        return self.probabilities.argmax(-1)

    @property
    def confidence(self) -> np.ndarray:
        """`<float32>[n]`, the likeliest digit's probability."""
        return self.probabilities.max(-1)


@functools.partial(jax.jit, static_argnames="model")
def _apply(model: DigitClassifier, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    features, logits = model.apply({"params": params}, images)
    return features, jax.nn.softmax(logits)[:, :NUM_DIGITS]


def classify(params: Any, images: np.ndarray) -> Predictions:
    """Classifies images `<float>[n, 28, 28]`, ink in [0, 1], at least one."""
    pieces = []
    for start in range(0, len(images), _BATCH_SIZE):
        batch = jnp.asarray(images[start : start + _BATCH_SIZE], jnp.float32)
        # A short last batch is filled up, so that one program serves all.
        padded = jnp.pad(batch, ((0, _BATCH_SIZE - len(batch)), (0, 0), (0, 0)))
        outputs = _apply(DigitClassifier(), params, padded)
        pieces.append([np.asarray(output)[: len(batch)] for output in outputs])
    features, probabilities = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return Predictions(features, probabilities)
