"""The baseline in small: the last transposed convolution gives the logits, no wide dense layer.

  python main.py --config=configs/small.py --workdir=runs/small

Comes trained, in `docs/small`.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.latent_size = 32
    config.decoder.grid_channels = 16
    config.decoder.filters = (64, 32, 16)
    config.decoder.strides = (1, 2, 1)
    config.decoder.head = "conv"
    config.train.num_epochs = 30
    config.train.learning_rate = 0.001
    config.train.learning_rate_schedule = "cosine"
    return config
