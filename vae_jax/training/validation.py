"""Mean losses over complete splits, every image counted once."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from vae_jax.model.objective import evaluation_terms
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch, Terms
from vae_jax.model.vae import Params
from vae_jax.runtime.batching import map_batches
from vae_jax.runtime.devices import DATA_AXIS
from vae_jax.training import metrics
from vae_jax.training.settings import EvaluationSettings

# Fewer images with several samples each: a batch ends within seconds.
_BATCH_SIZE, _MIN_BATCH_SIZE = 500, 100


def evaluate_split(
    settings: EvaluationSettings,
    params: Params,
    root_key: jax.Array,
    data: Batch,
    before_batch: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Computes each replica's mean loss and terms over all images, in nats per image.

    The images are pixels, `<uint8>[n, height, width, channels]`. An exception of `before_batch`,
    called before each batch of images, ends the evaluation.
    """
    # Every device has as many images of a batch as the others.
    num_parts = 1 if settings.mesh is None else settings.mesh.shape[DATA_AXIS]
    batch_size = max(_BATCH_SIZE // settings.objective.num_importance_samples, _MIN_BATCH_SIZE)
    batch_size = -(-batch_size // num_parts) * num_parts

    def evaluate(batch: Batch, indices: jax.Array) -> Terms:
        before_batch()
        return evaluate_batch(settings, params, root_key, batch, indices)

    terms = map_batches(evaluate, batch_size, data, np.arange(len(data), dtype=np.int32))
    return metrics.mean_terms(terms, len(data))


@functools.partial(jax.jit, static_argnames="settings")
def evaluate_batch(
    settings: EvaluationSettings,
    params: Params,
    root_key: jax.Array,
    batch: Batch,
    indices: jax.Array,
) -> Terms:
    """Computes loss and terms of each image, each `<float>[batch, ...]`, nats per image.

    Dropout is off. An image's noise depends on its index in the split, `<int>[batch]`, not on the
    batch size or the epoch.
    """

    def evaluate(params: Params, root_key: jax.Array, batch: Batch, indices: jax.Array) -> Terms:
        batch = batch.to_intensities()
        keys = jax.vmap(lambda index: stream_key(root_key, Stream.EVALUATION, index))(indices)
        return evaluation_terms(settings.objective, settings.model, params, batch, keys)

    evaluate_all = settings.for_each_replica(
        evaluate, (0, 0, None, None), out_axes=1, in_batch=(None, None, 0, 0), out_batch=0
    )
    return evaluate_all(params, root_key, batch, indices)
