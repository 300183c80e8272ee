"""Evaluation images in black and white: the right probabilities, and always the same draws."""

import numpy as np
import pytest

from vae_jax.datasets.binarization import binarize_for_evaluation


def test_probability_of_each_gray_value():
    values = np.arange(256, dtype=np.uint8)
    images = np.tile(values, (4_900, 1)).reshape(-1, 28, 28)  # each value 4,900 times
    binary = binarize_for_evaluation(images, "test")
    assert binary.dtype == np.uint8 and binary.shape == images.shape
    assert set(np.unique(binary)) == {0, 255}
    frequency = (binary.reshape(-1, 256) == 255).mean(axis=0)
    assert frequency[0] == 0 and frequency[255] == 1
    probability = values / 255
    error = np.sqrt(probability * (1 - probability) / 4_900)
    assert np.all(np.abs(frequency - probability) <= 4.5 * error)


def test_the_draws_never_change():
    # Pinned: other draws are another test set, and likelihoods would not compare.
    images = np.full((2, 28, 28), 128, np.uint8)
    counts = {
        name: (binarize_for_evaluation(images, name) == 255).sum(axis=(1, 2)).tolist()
        for name in ("validation", "test")
    }
    assert counts == {"validation": [393, 389], "test": [375, 388]}


@pytest.mark.parametrize("split_name", ["validation", "test"])
def test_an_image_is_drawn_alike_whatever_follows_it(split_name):
    images = np.random.RandomState(0).randint(0, 256, size=(9, 28, 28)).astype(np.uint8)
    all_images = binarize_for_evaluation(images, split_name)
    np.testing.assert_array_equal(binarize_for_evaluation(images[:4], split_name), all_images[:4])


def test_the_splits_have_different_streams():
    images = np.full((5, 28, 28), 128, np.uint8)
    validation = binarize_for_evaluation(images, "validation")
    test = binarize_for_evaluation(images, "test")
    agreement = (validation == test).mean()
    assert 0.45 < agreement < 0.55  # 0.5 for independent draws, standard error 0.008


def test_gray_images_are_left_alone():
    images = np.full((1, 28, 28), 128, np.uint8)
    binarize_for_evaluation(images, "test")
    assert np.all(images == 128)
