"""Mean losses over whole splits."""

import numpy as np

from vae_jax.runtime import devices
from vae_jax.training import metrics, steps
from vae_jax.training.optimizer import evaluation_params
from vae_jax.training.train_state import TrainState

_BATCH_SIZE = 500


def evaluate_split(
    settings: steps.StepSettings, state: TrainState, images: np.ndarray
) -> list[dict[str, float]]:
    """Each replica's mean loss and terms over every image, each counted once.

    Args:
      settings: model and loss.
      state: parameters, or an optimiser's state with their average, and root key.
      images: `<uint8>[n, 28, 28]`.

    Returns:
      The terms of each replica, nats per image.
    """
    # Every device has as many images of a batch as the others.
    num_devices = settings.mesh.size if settings.splits_batches else 1
    batch_size = -(-_BATCH_SIZE // num_devices) * num_devices
    params = evaluation_params(state.params, state.opt_state)
    pieces = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        # A short last batch is filled up, so that one program serves all, and cut off again.
        padding = batch_size - len(batch)
        terms = steps.evaluate_batch(
            settings,
            params,
            state.root_key,
            np.pad(batch, ((0, padding), (0, 0), (0, 0))),
            np.arange(start, start + batch_size),
        )
        pieces.append(devices.to_host(terms)[: len(batch)])
    return metrics.mean_terms(pieces, len(images))
