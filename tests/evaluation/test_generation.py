"""Reconstructions, samples and interpolations against the model's parts."""

import jax
import numpy as np
import pytest
import scipy.stats

from tests.support.common import apply, make_settings, make_small_config, small_vae
from vae_jax.datasets import DataSpec
from vae_jax.evaluation import generation
from vae_jax.model.rng_streams import Stream, make_root_key, stream_key
from vae_jax.model.structs import Batch
from vae_jax.training import steps
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params

IMAGES = np.random.RandomState(0).randint(0, 256, size=(6, 28, 28, 1)).astype(np.uint8)
DATA = Batch(IMAGES)


@pytest.fixture(scope="module")
def trained():
    model = small_vae(3)
    return model, steps.initial_state(make_settings(model), seed=0)


def test_reconstructions_decode_the_posterior_mean(trained):
    model, state = trained
    posterior = apply(model, state.params, Batch(IMAGES / 255.0), method="posterior")
    logits = apply(model, state.params, posterior.mean, Batch(), method="decode")
    actual = generation.reconstruct(model, state.params, DATA)
    np.testing.assert_allclose(actual, jax.nn.sigmoid(logits), rtol=1e-4)


def test_interpolation_leads_from_one_reconstruction_to_the_other(trained):
    model, state = trained
    images = generation.interpolate(model, state.params, DATA[:3], DATA[3:], num_steps=5)
    ends = generation.reconstruct(model, state.params, DATA)
    assert images.shape == (3, 5, 28, 28, 1)
    np.testing.assert_allclose(images[:, 0], ends[:3], rtol=1e-4)
    np.testing.assert_allclose(images[:, -1], ends[3:], rtol=1e-4)
    means = generation.encode_batch(model, state.params, DATA).mean
    middle = generation.decode_batch(model, state.params, (means[:3] + means[3:]) / 2, Batch())
    np.testing.assert_allclose(images[:, 2], middle, rtol=1e-4)


def test_samples_decode_latents_of_the_prior(trained):
    model, state = trained
    images = generation.sample(model, state.params, state.root_key, 4)
    key = stream_key(state.root_key, Stream.PRIOR_SAMPLES)
    logits = apply(model, state.params, jax.random.normal(key, (4, 3)), Batch(), method="decode")
    np.testing.assert_allclose(images, jax.nn.sigmoid(logits), rtol=1e-4)
    assert images.shape == (4, 28, 28, 1)


@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "coupling_flow"])
def test_fewer_samples_are_the_first_of_more_and_few_programs_are_compiled(prior):
    config = make_small_config()
    config.prior.update(kind=prior, num_layers=2, hidden_size=8, num_components=5)
    model = evaluation_settings(config, DataSpec((28, 28, 1))).model
    root_key = make_root_key(3)
    params = init_params(model, root_key)
    key = stream_key(root_key, Stream.PRIOR_SAMPLES)
    generation._draw_latents.clear_cache()
    for number in (1, 2, 7, 99, 100, 101, 150, 200, 201):
        latents = generation.draw_latents(model, params, root_key, number)
        # What was drawn before, when each number had a program of its own.
        expected = jax.jit(
            lambda params, number=number: apply(
                model, params, method=lambda model: model.prior(Batch()).sample(key, number)
            )
        )(params)
        assert latents.shape == (number, 8)
        if prior == "coupling_flow":  # matrix products of other sizes round otherwise
            np.testing.assert_allclose(latents, expected, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(latents, expected)
    assert generation._draw_latents._cache_size() == 3


def test_samples_differ_from_each_other(trained):
    model, state = trained
    images = generation.sample(model, state.params, state.root_key, 4)
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4


@pytest.mark.parametrize("labels", [np.arange(20) % 10, [3, 3, 7], [0, 1, 1, 9, 0]])
def test_pairs_are_of_different_classes(labels):
    labels = np.array(labels, np.uint8)
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    first, last = generation.pick_pairs(images, labels, num_pairs=10)
    assert np.all(labels[first] != labels[last])
    np.testing.assert_array_equal(labels[first], np.unique(labels))
    np.testing.assert_array_equal(np.sort(labels[last]), np.unique(labels))


@pytest.mark.parametrize("labels", [None, [4, 4, 4, 4, 4, 4]])
def test_pairs_without_classes_are_far_from_each_other(labels):
    values = np.array([0, 10, 100, 250, 60, 30], np.uint8)
    first, last = generation.pick_pairs(
        values.reshape(6, 1, 1, 1), None if labels is None else np.array(labels), num_pairs=2
    )
    # Of those left each time, the farthest from the first: 250 from 0, then 100 from 10.
    assert [*zip(values[first], values[last], strict=True)] == [(0, 250), (10, 100)]


def test_drawn_pixels_are_of_the_likelihood_at_the_latents_of_the_samples(trained):
    model, state = trained
    pixels = generation.sample_pixels(model, state.params, state.root_key, 40)
    assert set(np.unique(pixels)) == {0.0, 1.0}
    means = generation.sample(model, state.params, state.root_key, 40)
    error = np.sqrt((means * (1 - means)).sum()) / means.size
    assert abs(pixels.mean() - means.mean()) < 5 * error
    # An image's pixels do not depend on how many are drawn with it.
    alone = generation.sample_pixels(model, state.params, state.root_key, 3)
    np.testing.assert_array_equal(alone, pixels[:3])
    assert len(np.unique(pixels.reshape(40, -1), axis=0)) == 40


def test_many_images_are_what_few_are(trained, monkeypatch):
    model, state = trained
    together = generation.encode(model, state.params, DATA)
    monkeypatch.setattr(generation, "_SMALL_BATCH_SIZE", 4)
    monkeypatch.setattr(generation, "_BATCH_SIZE", 4)
    apart = generation.encode(model, state.params, DATA)
    assert apart.mean.shape == (6, 3)
    for name, array in together.to_arrays().items():
        np.testing.assert_allclose(apart.to_arrays()[name], array, rtol=1e-5, atol=1e-6)


def test_measured_samples_are_decided_by_the_key_and_are_not_those_of_the_figure(trained):
    model, state = trained
    first, again = (
        generation.sample(model, state.params, state.root_key, 5, Stream.MEASURED_SAMPLES)
        for _ in range(2)
    )
    assert first.shape == (5, 28, 28, 1)
    np.testing.assert_array_equal(first, again)
    shown = generation.sample(model, state.params, state.root_key, 5)
    assert not np.allclose(first, shown)


def test_the_manifold_lies_at_the_quantiles_of_the_prior():
    model = small_vae(2)
    state = steps.initial_state(make_settings(model), seed=0)
    images = generation.manifold(model, state.params, num_steps=5)
    assert images.shape == (5, 5, 28, 28, 1)
    # Rightmost column, second row from above: 90% and 70% of the prior lie below.
    latents = scipy.stats.norm.ppf([[0.9, 0.7]]).astype(np.float32)
    expected = generation.decode_batch(model, state.params, latents, Batch())[0]
    np.testing.assert_allclose(images[1, 4], expected, rtol=1e-4)


def test_generated_images_are_decided_by_the_key(trained):
    model, state = trained
    images = generation.sample(model, state.params, state.root_key, 3)
    np.testing.assert_array_equal(images, generation.sample(model, state.params, state.root_key, 3))
    assert images.shape == (3, 28, 28, 1)
    assert np.all((images > 0) & (images < 1))
