"""Measures of a conditional model: whether samples show their class, and its own classifier."""

import jax
import numpy as np

from vae_jax.evaluation import digit_classifier, generation, log_likelihood
from vae_jax.evaluation.measures import ConditionalMeasures
from vae_jax.model.rng_streams import Stream
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params

_NUM_SAMPLES_PER_CLASS = 1_000
NUM_IMPORTANCE_SAMPLES = 10


def classify(model: VAE, params: Params, root_key: jax.Array, data: Batch) -> np.ndarray:
    """Classifies images by Bayes' rule: `<int>[n]`, the class with the largest log p(x | y).

    All classes are equally probable, and their log p(x | y) is estimated with the same noise. For
    gray pixels of a Bernoulli it is the bound that the model is trained with.
    """
    labels = (np.full(len(data), label, np.int32) for label in range(model.num_classes))
    values = [
        log_likelihood.estimate(
            model, params, root_key, Batch(data.images, guess), NUM_IMPORTANCE_SAMPLES
        ).log_likelihood
        for guess in labels
    ]
    return np.stack(values).argmax(0)


def measure(
    model: VAE, params: Params, root_key: jax.Array, data: Batch, is_digits: bool
) -> ConditionalMeasures:
    """Measures a conditional model on images with labels; its samples too, if they are digits."""
    accuracies = None
    if is_digits:
        num_images = _NUM_SAMPLES_PER_CLASS * model.num_classes
        labels = generation.spread_labels(num_images, model.num_classes)
        images = generation.sample(
            model, params, root_key, num_images, Stream.MEASURED_SAMPLES, Batch(labels=labels)
        )
        predictions = digit_classifier.classify(digit_classifier.load_weights(), images)
        is_right = predictions.labels == labels
        accuracies = is_right.reshape(model.num_classes, -1).mean(1).tolist()
    return ConditionalMeasures(
        bayes_accuracy=float((classify(model, params, root_key, data) == data.labels).mean()),
        num_importance_samples=NUM_IMPORTANCE_SAMPLES,
        sample_accuracy=None if accuracies is None else float(np.mean(accuracies)),
        sample_accuracies=accuracies,
    )
