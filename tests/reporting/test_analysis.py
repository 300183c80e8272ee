"""Measures in a report of degenerate models and data."""

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

pytestmark = pytest.mark.slow


@pytest.fixture
def analyze(tmp_path, monkeypatch):
    """Analyzes a small model whose parameters are changed, on some of the digits."""

    def analyze(change, num_train=100, num_test=60):
        digits = datasets.load("mnist_5k")
        splits = digits.train[:num_train], digits.validation, digits.test[:num_test]
        dataset = Dataset("mnist_5k", *splits, "sha", digits.train_mean)
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


def test_a_collapsed_model_has_no_maps(analyze, tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "latent_map.png").touch()
    result = analyze(np.zeros_like)
    assert result.latents.active_units == 0
    assert not (tmp_path / "plots" / "latent_map.png").exists()  # it was of another epoch


def test_a_single_image_is_not_enough_for_most_measures(analyze):
    result = analyze(np.asarray, 1, 1)
    assert result.samples.num_samples == 1
    assert result.ceiling is result.samples.precision is None
    assert result.interpolations.max_mean_step_ratio is None
    assert result.latents.probe_accuracy is None
