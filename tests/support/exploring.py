"""Pages of the explorer, of models that nothing trained."""

import numpy as np

from tests.support.common import make_settings
from vae_jax.datasets import Dataset, Split
from vae_jax.evaluation.trained_run import Replica
from vae_jax.model.vae import create_vae
from vae_jax.training import steps

DECODER = {"dense_sizes": (), "grid_channels": 1, "filters": (2,), "strides": (4,)}


def make_replica(folder, latent_size=3, image_shape=(28, 28, 1)):
    """A model of seed 0, its encoder dense."""
    encoder = {"kind": "dense", "dense_sizes": (16,)}
    model = create_vae(latent_size, encoder, DECODER, image_shape)
    settings = make_settings(model)
    params = steps.initial_state(settings, seed=0).params
    return Replica(folder, 0, 3, 40, settings.evaluation, params, image_shape[2] == 1)


def make_dataset(image_shape=(28, 28, 1), num_tests=60, class_names=()):
    """Images of noise of few levels; those of a class are next to each other."""
    random = np.random.default_rng(0)
    images = random.integers(0, 8, (num_tests, *image_shape), np.uint8) * 36
    labels = np.arange(num_tests) * len(class_names) // num_tests if class_names else None
    split = Split(images, labels)
    return Dataset("images", split, split, split, "", split.images.mean(0), class_names)
