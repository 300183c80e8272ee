"""A first look, on 5,000 digits that need no download.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.data.name = "mnist_5k"
    config.train.num_epochs = 20
    config.train.learning_rate = 0.001
    return config
