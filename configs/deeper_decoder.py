"""More capacity in the decoder: a third dense layer and a fourth transposed convolution.

  python main.py --config=configs/deeper_decoder.py --workdir=runs/deeper_decoder

Not trained to the end yet.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.decoder.dense_sizes = (128, 256, 392)
    config.decoder.filters = (32, 32, 16, 16)
    config.decoder.strides = (1, 1, 1, 2)
    return config
