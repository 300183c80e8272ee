"""The baseline with dropout 0.5 after every transposed convolution but the last.

  python main.py --config=configs/dropout.py --workdir=runs/dropout

Not trained to the end yet.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.decoder.dropout_rate = 0.5
    config.decoder.dropout_after = (0, 1)
    return config
