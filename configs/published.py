"""The original's own code: `optimized` with its dropout, its ReLU on the mean, its initialisation.

  python main.py --config=configs/published.py --workdir=runs/published

Not trained to the end yet.
"""

import ml_collections

from configs import optimized


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = optimized.get_config()
    config.initialization = "tensorflow"
    config.encoder.mean_activation = "relu"
    config.decoder.dropout_rate = 0.75
    config.decoder.dropout_after = (0, 1)
    return config
