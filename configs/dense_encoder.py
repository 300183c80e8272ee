"""The baseline with the second seed's dense encoder in place of the LSTM.

  python main.py --config=configs/dense_encoder.py --workdir=runs/dense_encoder

Not trained to the end yet.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.encoder.kind = "dense"
    return config
