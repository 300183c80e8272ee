"""Learned priors in whole runs: trained along, or fitted afterwards."""

import numpy as np
import pytest

import vae_jax
from tests.support.common import error_of
from tests.support.laplace import add_laplace_prior
from vae_jax import datasets, evaluate, fit_prior, sample, train
from vae_jax.runtime.files import read_json
from vae_jax.training import prior_fitting
from vae_jax.training.metrics import read_rows
from vae_jax.training.run_directory import RunDirectory


@pytest.fixture
def with_prior(make_tiny_config):
    def with_prior(kind, **fields):
        config = make_tiny_config()
        config.prior.update(kind=kind, num_layers=2, hidden_size=16, num_components=10, **fields)
        return config

    return with_prior


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("coupling_flow", {}),
        pytest.param("mixture", {}, marks=pytest.mark.nightly),
        pytest.param("vamp", {}, marks=pytest.mark.nightly),
        ("vamp", {"pseudo_inputs": "data"}),
    ],
)
def test_a_run_with_a_learned_prior(tmp_path, kind, fields, with_prior, tiny_run, without_report):
    config = with_prior(kind, **fields)
    config.loss.path_gradient = True
    train.train_and_evaluate(config, tmp_path)
    losses = [
        read_rows(folder / "metrics.csv")[-1]["validation_loss"] for folder in (tmp_path, tiny_run)
    ]
    assert losses[0] < losses[1] + 1.0  # of two epochs: a prior of many parameters begins slowly
    run = RunDirectory.open(tmp_path)
    evaluate.evaluate(run)
    assert "kl_per_dimension" not in read_json(tmp_path / "evaluation.json")["posterior"]
    sample.sample(run, num=3)
    vae, dataset = vae_jax.load_run(tmp_path), datasets.load(**config.data)
    samples = vae.sample(3, seed=config.seed)
    np.testing.assert_array_equal(samples, np.load(tmp_path / "samples.npy"))
    images = dataset.test.images
    between = vae.interpolate(images[:2], images[2:4], 3)
    np.testing.assert_allclose(between[:, 2], vae.reconstruct(images[2:4]), atol=1e-3)
    assert np.isfinite(vae.log_likelihood(images[:3] > 127, num_samples=9)).all()
    if fields:  # the pseudo-inputs are training images and stay
        found = np.rint(255.0 * np.asarray(vae.params["prior"]["images"]))
        rows = [0, 15, 30, 46, 61, 77, 92, 108, 123, 139]
        np.testing.assert_array_equal(found, dataset.train.images[rows])
        error = error_of(fit_prior.fit_prior, run, tmp_path / "new")
        assert " prior.kind=vamp " in error and " prior.pseudo_inputs=data)" in error


@pytest.mark.slow
def test_a_prior_fitted_afterwards(tiny_run, tmp_path, monkeypatch, with_prior):
    monkeypatch.setattr(prior_fitting, "_NUM_EPOCHS", 60)
    config, target = with_prior("coupling_flow"), tmp_path / "new" / "fitted"
    run = RunDirectory.open(tiny_run).with_config(config, ("prior",))
    fit_prior.fit_prior(run, target)
    record, fit = (read_json(target / name) for name in ("config.json", "prior_fit.json"))
    assert record["prior_fitted_to"] == str(tiny_run)
    assert record["config"]["prior"]["kind"] == "coupling_flow"
    assert (fit["epoch"], len(fit["train"]), len(fit["validation"])) == (60, 60, 61)
    # It begins as the standard normal.
    assert fit["validation"][0] == pytest.approx(fit["standard_normal"], rel=1e-5)
    gain = fit["validation"][0] - fit["validation"][60]
    assert gain > 0.2
    # The ELBO gains as much as the prior; the reconstruction is the same.
    before, after = (
        read_json(folder / "summary.json")["validation"] for folder in (tiny_run, target)
    )
    assert before["reconstruction"] == pytest.approx(after["reconstruction"], rel=1e-6)
    assert before["kl"] - after["kl"] == pytest.approx(gain, abs=0.15)
    parent, fitted = (vae_jax.load_run(folder) for folder in (tiny_run, target))
    assert np.abs(parent.sample(3) - fitted.sample(3)).max() > 0.1
    assert "exists already" in error_of(fit_prior.fit_prior, run, target)


@pytest.mark.parametrize("kind", ["standard_normal", "laplace"])
def test_a_prior_without_parameters_is_not_fitted(
    tiny_run, tmp_path, monkeypatch, kind, with_prior
):
    add_laplace_prior(monkeypatch)
    run = RunDirectory.open(tiny_run).with_config(with_prior(kind), ("prior",))
    error = error_of(fit_prior.fit_prior, run, tmp_path / "new")
    assert "no parameters to learn" in error and f" prior.kind={kind} " in error
    assert not (tmp_path / "new").exists()
    assert "--output is missing" in error_of(fit_prior.fit_prior, run)
