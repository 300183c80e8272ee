"""A first look: a smaller decoder and latent space, on 5,000 digits that need no download.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

Test loss 118.86 nats per image = reconstruction 96.00 + KL 22.86, at epoch 14 of 15; about a
minute on two CPU cores. With 4,000 digits to train on, validation hardly improves after epoch 12.
"""

import ml_collections

import vae_jax


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = vae_jax.get_config("default")
    config.data.name = "mnist_5k"
    config.latent_size = 16
    config.decoder.filters = (16, 8)
    config.decoder.strides = (1, 2)
    config.train.num_epochs = 15
    config.train.learning_rate = 0.002
    return config
