"""The small model, conditioned on the class of the digit: p(x | z, y) and q(z | x, y).

  python main.py --config=configs/conditional.py --workdir=runs/conditional

Kingma et al. 2014 (arXiv:1406.5298), the decoder of M2; Sohn et al. 2015. Test loss 90.80 nats per
image = reconstruction 70.39 + KL 20.40, at epoch 30 of 30 (`small`, without labels: 96.14); 51
minutes on one core of an AMD EPYC, beside other work. It comes trained, in `models/conditional`.
"""

import ml_collections

import vae_jax


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = vae_jax.get_config("small")
    config.condition.kind = "label"
    return config
