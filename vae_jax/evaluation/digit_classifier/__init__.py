"""A small classifier of MNIST digits, its weights included: the yardstick of sample quality."""

from vae_jax.evaluation.digit_classifier.model import DigitClassifier, Predictions, classify
from vae_jax.evaluation.digit_classifier.weights import WEIGHTS_PATH, WEIGHTS_SHA256, load_weights

__all__ = [
    "WEIGHTS_PATH",
    "WEIGHTS_SHA256",
    "DigitClassifier",
    "Predictions",
    "classify",
    "load_weights",
]
