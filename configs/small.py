"""The baseline in small: the last transposed convolution gives the logits, no wide dense layer.

  python main.py --config=configs/small.py --workdir=runs/small

Test loss 96.14 nats per image = reconstruction 71.20 + KL 24.94, at epoch 30 of 30, with 795,333
parameters; 38 minutes on one core of an Intel Xeon, beside other work. It comes trained, in
`models/small`.
"""

import ml_collections

import vae_jax


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = vae_jax.get_config("default")
    config.latent_size = 32
    config.decoder.grid_channels = 16
    config.decoder.filters = (64, 32, 16)
    config.decoder.strides = (1, 2, 1)
    config.decoder.head = "conv"
    config.train.num_epochs = 30
    config.train.learning_rate = 0.001
    config.train.learning_rate_schedule = "cosine"
    return config
