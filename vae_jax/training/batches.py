"""From the splits of a data set to the batches that a model takes."""

import numpy as np

from vae_jax.datasets import Split
from vae_jax.model.structs import Batch


def to_batch(split: Split) -> Batch:
    """Returns a split's images, pixels as `<uint8>`, and its labels as a batch."""
    labels = split.labels
    return Batch(split.images, None if labels is None else np.asarray(labels, np.int32))
