"""What a report measures of models and data that are as bad as can be."""

import json

import jax
import numpy as np
import pytest

from tests.support.common import make_settings, make_small_config, small_vae
from vae_jax import datasets
from vae_jax.datasets import Dataset
from vae_jax.evaluation.measures import Analysis
from vae_jax.evaluation.trained_run import Replica
from vae_jax.reporting import analysis
from vae_jax.runtime.files import read_record, write_record
from vae_jax.training import steps


@pytest.fixture(scope="module")
def digits():
    return datasets.load("mnist_5k")


@pytest.fixture
def analyze(tmp_path, monkeypatch, digits):
    """Analyzes a small model whose parameters are changed, on some of the digits."""

    def analyze(change, num_train=100, num_test=60, stride=1):
        train = digits.train[: num_train * stride : stride]
        test = digits.test[: num_test * stride : stride]
        dataset = Dataset("mnist_5k", train, digits.validation, test, "sha")
        monkeypatch.setattr(analysis.datasets, "load", lambda **arguments: dataset)
        analysis._reference_and_ceiling.cache_clear()
        settings = make_settings(small_vae(2))
        params = jax.tree.map(change, steps.initial_state(settings, seed=0).params)
        replica = Replica(tmp_path, 0, 1, 40, settings.evaluation, params)
        result = analysis._analyze(replica, dataset, make_small_config())
        analysis._reference_and_ceiling.cache_clear()
        path = tmp_path / "analysis.json"
        write_record(path, result)
        assert read_record(path, Analysis) == result
        json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
        return result

    return analyze


def test_a_collapsed_model_is_measured_but_for_its_maps(analyze, tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "latent_map.png").touch()
    result = analyze(np.zeros_like)
    assert result.reasons() == {
        "latents.PCA map": "the latent means differ by 0, which cannot be mapped",
        "latents.t-SNE map": "the latent means differ by 0, which cannot be mapped",
    }
    assert result.latents.active_units == 0
    assert not (tmp_path / "plots" / "latent_map.png").exists()  # it was of another epoch


def test_parameters_that_are_not_finite_give_no_measures(analyze):
    result = analyze(lambda leaf: np.full_like(leaf, np.nan))
    assert result.samples is None
    assert result.latents.active_units is None
    assert result.reconstructions.mean_squared_error is None
    assert result.interpolations.max_mean_step_ratio is None
    assert result.ceiling is not None
    reasons = result.reasons()
    assert reasons["samples"] == "they are not finite"
    assert reasons["latents.t-SNE map"] == "what it is measured of is not finite"


@pytest.mark.parametrize(("num_train", "num_test"), [(1, 1), (60, 60)])
def test_no_more_training_images_than_test_images(analyze, num_train, num_test):
    result = analyze(np.asarray, num_train, num_test)
    assert result.ceiling is None
    reasons = result.reasons()
    assert reasons["ceiling"] == "there are no more training images than test images"
    if num_test == 1:
        assert result.samples.num_samples == 1
        assert result.samples.precision is None
        assert result.interpolations.max_mean_step_ratio is None
        assert reasons["latents.probe_accuracy"] == "the training images are of one class"
    else:
        assert reasons.keys() == {"ceiling"}


def test_few_images_of_one_class(analyze):
    result = analyze(np.asarray, 40, 4, stride=10)
    assert result.samples.frechet_distance > 0
    assert result.samples.density is None
    reasons = result.reasons()
    assert reasons["latents.probe_accuracy"] == "the training images are of one class"
    assert reasons["latents.t-SNE map"].startswith("4 images")
