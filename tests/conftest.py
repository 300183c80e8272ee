"""A small configuration, so that a test of a whole run is short."""

import ml_collections
import pytest

from configs import default


@pytest.fixture
def small_config() -> ml_collections.ConfigDict:
    """A valid configuration of a model with few parameters, on the embedded digits."""
    config = default.get_config()
    config.data.name = "mnist_5k"
    config.latent_size = 8
    config.encoder.hidden_size = 16
    config.decoder.dense_sizes = (49,)
    config.decoder.grid = (7, 7, 1)
    config.decoder.filters = (4, 4)
    config.decoder.strides = (2, 2)
    config.train.num_epochs = 2
    config.train.learning_rate = 0.003
    return config
