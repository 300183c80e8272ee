"""A start for your own images, a few thousand of them: a folder, an .npz or an .npy.

  python main.py --config=configs/images.py --config.data.path=photos --workdir=runs/photos

The 1,965 Frey faces, 28x20: test loss -995.76 nats per image, a density, at epoch 40 of 40; a
minute and a half on two CPU cores. 4,000 color patches of 32x32: -3199.64 nats; about four minutes.
Larger images take longer, as their number of pixels: set train.num_epochs.
"""

import ml_collections

import vae_jax


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = vae_jax.get_config("default")
    config.latent_size = 32
    config.initialization = "tensorflow"
    config.output_bias_init = "data_mean"
    config.data.name = "images"
    config.data.validation_size = 200
    config.data.test_size = 200
    config.likelihood.kind = "gaussian"
    config.encoder.bidirectional = True
    config.encoder.mlp_sizes = (256,)
    config.encoder.activation = "swish"
    config.decoder.dense_sizes = (256,)
    config.decoder.grid_channels = 32
    config.decoder.filters = (32, 32, 16)
    config.decoder.strides = (2, 2, 2)
    config.decoder.residual_blocks = (1, 0, 0)
    config.decoder.activation = "swish"
    config.decoder.head = "conv"
    config.train.num_epochs = 40
    config.train.batch_size = 50
    config.train.learning_rate = 0.002
    config.train.learning_rate_schedule = "cosine"
    config.train.weight_decay = 0.05
    config.train.ema_decay = 0.99
    return config
