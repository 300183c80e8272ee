"""The seeds' baseline: three transposed convolutions, no dropout, learning rate 0.0005.

python main.py --config=configs/baseline.py --workdir=runs/baseline
"""

from configs.default import get_config

__all__ = ["get_config"]
