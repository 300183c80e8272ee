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


def sample_accuracy(model: VAE, params: Params, root_key: jax.Array) -> list[float]:
    """Computes the fraction of each class's samples that the digit classifier takes for it.

    Args:
      model: a conditional model of MNIST's digits.
      params: its parameters.
      root_key: the run's root key.
    """
    num_images = _NUM_SAMPLES_PER_CLASS * model.num_classes
    labels = generation.spread_labels(num_images, model.num_classes)
    images = generation.sample(
        model, params, root_key, num_images, Stream.MEASURED_SAMPLES, Batch(labels=labels)
    )
    predictions = digit_classifier.classify(digit_classifier.load_weights(), images)
    is_right = predictions.labels == labels
    return is_right.reshape(model.num_classes, -1).mean(1).tolist()


def classify(
    model: VAE,
    params: Params,
    root_key: jax.Array,
    data: Batch,
    num_samples: int = NUM_IMPORTANCE_SAMPLES,
) -> np.ndarray:
    """Classifies images by Bayes' rule: the class with the largest log p(x | y), all as probable.

    log p(x | y) is estimated with the same noise in every class. For gray pixels of a Bernoulli it
    is no likelihood, and the rule is applied to the bound that the model is trained with.

    Args:
      model: a conditional model.
      params: its parameters.
      root_key: decides the samples.
      data: pixels; their labels are not looked at.
      num_samples: importance samples of each image in each class.

    Returns:
      `<int>[n]`, labels.
    """
    labels = (np.full(len(data), label, np.int32) for label in range(model.num_classes))
    each = [
        log_likelihood.estimate(
            model, params, root_key, Batch(data.images, guess), num_samples
        ).log_likelihood
        for guess in labels
    ]
    return np.stack(each).argmax(0)


def measure(
    model: VAE, params: Params, root_key: jax.Array, data: Batch, is_digits: bool
) -> ConditionalMeasures:
    """Measures a conditional model on images with labels."""
    accuracies = sample_accuracy(model, params, root_key) if is_digits else None
    return ConditionalMeasures(
        bayes_accuracy=float((classify(model, params, root_key, data) == data.labels).mean()),
        num_importance_samples=NUM_IMPORTANCE_SAMPLES,
        sample_accuracy=None if accuracies is None else float(np.mean(accuracies)),
        sample_accuracies=accuracies,
    )
