"""A prior fitted to posteriors: of any number of training images."""

import dataclasses

import numpy as np
import pytest

from tests.support.common import make_small_config
from vae_jax import datasets
from vae_jax.datasets import DataSpec
from vae_jax.evaluation import prior_fitting
from vae_jax.model.rng_streams import make_root_key
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params


@pytest.mark.parametrize("num_images", [1, 30, 130])
def test_few_training_images_are_a_batch(num_images, monkeypatch):
    monkeypatch.setattr(prior_fitting, "_LEARNING_RATE", 0.05)
    config = make_small_config()
    config.prior.update(kind="mixture", num_components=1)
    model = evaluation_settings(config, DataSpec((28, 28, 1))).model
    params = init_params(model, make_root_key(0))
    dataset = datasets.load("mnist_5k")
    dataset = dataclasses.replace(dataset, train=dataset.train[:num_images])
    others = {name: value for name, value in params.items() if name != "prior"}
    prior, fit = prior_fitting.fit_prior(
        model, others, params["prior"], make_root_key(0), dataset, is_binarized=False
    )
    assert np.isfinite([*fit.train, *fit.validation]).all()
    assert len(fit.train) == 40
    if num_images > 1:
        # The one Gaussian moves to the posteriors' mean.
        posterior = prior_fitting.generation.encode(
            model, params, prior_fitting.to_batch(dataset.train)
        )
        distance = np.linalg.norm(prior["mean"][0] - posterior.mean.mean(0))
        assert distance < 0.5 * np.linalg.norm(params["prior"]["mean"][0] - posterior.mean.mean(0))
