"""The deeper decoder with dropout 0.5 after every transposed convolution but the last.

  python main.py --config=configs/deeper_dropout.py --workdir=runs/deeper_dropout

Test loss 102.52 nats per image = reconstruction 80.84 + KL 21.68, at epoch 48 of 50; 60 minutes on
one core of an AMD EPYC, beside other work.
"""

import ml_collections

import vae_jax


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = vae_jax.get_config("deeper_decoder")
    config.decoder.dropout_rate = 0.5
    config.decoder.dropout_after = (0, 1, 2)
    return config
