"""The reference project's optimized model: smaller dense layers, more channels, a higher rate.

  python main.py --config=configs/optimized.py --workdir=runs/optimized

Test loss 102.17 nats per image = reconstruction 77.38 + KL 24.80, at epoch 24 of 50, from where on
it overfits; 110 minutes on one core of an AMD EPYC, beside other work. The reference project's
architecture without its dropout, 20.0 million parameters: `benchmarks/train_step.py` measures it.
"""

import ml_collections

import vae_jax


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = vae_jax.get_config("default")
    config.decoder.dense_sizes = (98,)
    config.decoder.grid_channels = 1
    config.decoder.filters = (64, 32, 32)
    config.train.learning_rate = 0.001
    return config
