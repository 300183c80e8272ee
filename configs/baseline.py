"""The seeds' baseline: three transposed convolutions, no dropout, learning rate 0.0005.

  python main.py --config=configs/baseline.py --workdir=runs/baseline

Test loss 100.60 nats per image = reconstruction 76.02 + KL 24.58, at epoch 39 of 50; about 50
minutes on two cores of a 2.5 GHz Xeon. Both at commit 3237e7d: later ones are faster and differ
in the order of float additions.
"""

from configs.default import get_config

__all__ = ["get_config"]
