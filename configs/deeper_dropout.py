"""The deeper decoder with dropout 0.5 after every transposed convolution but the last.

  python main.py --config=configs/deeper_dropout.py --workdir=runs/deeper_dropout

Not trained to the end yet.
"""

import ml_collections

from configs import deeper_decoder


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = deeper_decoder.get_config()
    config.decoder.dropout_rate = 0.5
    config.decoder.dropout_after = (0, 1, 2)
    return config
