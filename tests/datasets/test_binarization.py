"""Evaluation images in black and white: the right probabilities, and always the same draws."""

import numpy as np

from vae_jax.datasets.binarization import binarize_for_evaluation


def test_probability_of_each_gray_value():
    values = np.arange(256, dtype=np.uint8)
    images = np.tile(values, (4_900, 1)).reshape(-1, 28, 28)  # each value 4,900 times
    binary = binarize_for_evaluation(images, "test")
    assert binary.dtype == np.uint8 and {*np.unique(binary)} == {0, 255}
    frequency = (binary.reshape(-1, 256) == 255).mean(axis=0)
    assert frequency[0] == 0 and frequency[255] == 1
    probability = values / 255
    error = np.sqrt(probability * (1 - probability) / 4_900)
    assert np.all(np.abs(frequency - probability) <= 4.5 * error)


def test_the_draws_never_change():
    # Pinned: other draws are another test set, and likelihoods would not compare.
    images = np.full((2, 28, 28), 128, np.uint8)
    for name, expected in (("validation", [393, 389]), ("test", [375, 388])):
        white = binarize_for_evaluation(images, name) == 255
        assert white.sum(axis=(1, 2)).tolist() == expected
    assert np.all(images == 128)
