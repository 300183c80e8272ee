"""A prior fitted to posteriors: of any number of training images, repeatably."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.support.common import assert_trees_equal, make_small_config
from vae_jax import datasets
from vae_jax.model.rng_streams import make_root_key
from vae_jax.training import prior_fitting
from vae_jax.training.batches import to_batch
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params

DATASET = datasets.load("mnist_5k")


def fit(num_images, is_binarized=False):
    config = make_small_config()
    config.prior.update(kind="mixture", num_components=1)
    model = evaluation_settings(config, DATASET.spec).model
    params = init_params(model, make_root_key(0))
    dataset = dataclasses.replace(DATASET, train=DATASET.train[:num_images])
    prior = jax.tree.map(np.asarray, params.pop("prior"))
    result = prior_fitting.fit_prior(model, params, prior, make_root_key(0), dataset, is_binarized)
    data = prior_fitting._encode(model, params, to_batch(dataset.train), make_root_key(0))
    return prior, data.batch.images, *result


@pytest.mark.slow
@pytest.mark.parametrize("num_images", [30, pytest.param(130, marks=pytest.mark.slow)])
def test_a_gaussian_moves_to_the_mean_of_the_posteriors(num_images, monkeypatch):
    monkeypatch.setattr(prior_fitting, "_LEARNING_RATE", 0.05)
    before, posterior, after, losses = fit(num_images)
    assert np.isfinite([*losses.train, *losses.validation]).all()
    assert len(losses.train) == 40
    mean = posterior.mean.mean(0)
    distances = [np.linalg.norm(prior["mean"][0] - mean) for prior in (before, after)]
    assert distances[1] < 0.5 * distances[0]


@pytest.mark.slow
def test_binarized_pixels_are_drawn_anew_and_repeatably(monkeypatch):
    monkeypatch.setattr(prior_fitting, "_NUM_EPOCHS", 2)
    _, _, gray, _ = fit(1)
    first, second = (fit(1, is_binarized=True)[2] for _ in range(2))
    assert_trees_equal(first, second)
    assert not np.array_equal(first["mean"], gray["mean"])
