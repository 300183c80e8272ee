"""Reconstructions, samples and interpolations against the model's parts."""

import jax
import numpy as np
import pytest

from tests.support.common import apply, make_settings, make_small_config, small_vae
from vae_jax.datasets import DataSpec
from vae_jax.evaluation import generation
from vae_jax.model.rng_streams import Stream, make_root_key, stream_key
from vae_jax.model.structs import Batch
from vae_jax.training import steps
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params

IMAGES = np.random.RandomState(0).randint(0, 256, size=(6, 8, 8, 1)).astype(np.uint8)
DATA = Batch(IMAGES)


@pytest.fixture(scope="module")
def trained():
    model = small_vae(3, 4, (8, 8, 1))
    return model, steps.initial_state(make_settings(model), seed=0)


def decoded(model, params, latents):
    return jax.nn.sigmoid(apply(model, params, latents, Batch(), method="decode"))


@pytest.mark.slow
def test_reconstructions_and_interpolations_decode_posterior_means(trained):
    model, state = trained
    means = apply(model, state.params, Batch(IMAGES / 255.0), method="posterior").mean
    expected = decoded(model, state.params, means)
    actual = generation.reconstruct(model, state.params, DATA)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    lines = generation.interpolate(model, state.params, DATA[:3], DATA[3:], num_steps=5)
    assert lines.shape == (3, 5, 8, 8, 1)
    np.testing.assert_allclose(lines[:, 0], expected[:3], rtol=1e-4)
    np.testing.assert_allclose(lines[:, -1], expected[3:], rtol=1e-4)
    middle = decoded(model, state.params, (means[:3] + means[3:]) / 2)
    np.testing.assert_allclose(lines[:, 2], middle, rtol=1e-4)


@pytest.mark.slow
def test_samples_decode_latents_of_the_prior_by_the_stream_of_the_key(trained):
    model, state = trained
    images = generation.sample(model, state.params, state.root_key, 4)
    key = stream_key(state.root_key, Stream.PRIOR_SAMPLES)
    expected = decoded(model, state.params, jax.random.normal(key, (4, 3)))
    np.testing.assert_allclose(images, expected, rtol=1e-4)
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4
    measured = generation.sample(model, state.params, state.root_key, 4, Stream.MEASURED_SAMPLES)
    assert not np.allclose(images, measured)


@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "coupling_flow"])
def test_fewer_samples_are_the_first_of_more(prior):
    config = make_small_config()
    config.prior.update(kind=prior, num_layers=2, hidden_size=8, num_components=5)
    model = evaluation_settings(config, DataSpec((8, 8, 1))).model
    root_key = make_root_key(3)
    params = init_params(model, root_key)
    most = generation.draw_latents(model, params, root_key, 201)
    for number in (1, 99, 100, 101, 200):
        latents = generation.draw_latents(model, params, root_key, number)
        assert latents.shape == (number, 8)
        # Matrix products of other sizes round otherwise.
        tolerance = 1e-5 if prior == "coupling_flow" else 0.0
        np.testing.assert_allclose(latents, most[:number], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("labels", [np.arange(20) % 10, [3, 3, 7], [0, 1, 1, 9, 0]])
def test_pairs_are_of_different_classes_if_there_are_several(labels):
    labels = np.array(labels, np.uint8)
    first, last = generation.pick_pairs(labels, len(labels), num_pairs=10)
    assert np.all(labels[first] != labels[last])
    np.testing.assert_array_equal(labels[first], np.unique(labels))
    np.testing.assert_array_equal(np.sort(labels[last]), np.unique(labels))
    for alike in (None, np.full(len(labels), 4)):
        first, last = generation.pick_pairs(alike, 5, num_pairs=9)
        assert [*zip(first, last, strict=True)] == [(0, 1), (2, 3)]


def test_drawn_pixels_are_of_the_likelihood_at_the_latents_of_the_samples(trained):
    model, state = trained
    arguments = (model, state.params, state.root_key)
    pixels = generation.sample(*arguments, 40, pixels=True)
    means = generation.sample(*arguments, 40)
    error = np.sqrt((means * (1 - means)).sum()) / means.size
    assert abs(pixels.mean() - means.mean()) < 5 * error
    # An image's pixels do not depend on the number of images.
    np.testing.assert_array_equal(generation.sample(*arguments, 3, pixels=True), pixels[:3])
    assert len(np.unique(pixels.reshape(40, -1), axis=0)) == 40
