"""Learned priors in whole runs: trained along, or fitted afterwards."""

import json

import numpy as np
import pytest

import vae_jax
from tests.support.common import error_of, make_small_config
from tests.support.laplace import add_laplace_prior
from vae_jax import configuration, datasets, evaluate, fit_prior, interpolate, report, sample, train
from vae_jax.evaluation import generation
from vae_jax.runtime.errors import UserError
from vae_jax.training.run_directory import RunDirectory


def with_prior(kind):
    config = make_small_config()
    config.prior.update(kind=kind, num_layers=3, hidden_size=16, num_components=10)
    return config


def with_other_prior(folder, config):
    """A run, its configuration with another prior, as the mode takes it."""
    return RunDirectory.open(folder).with_config(config, ("prior",))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coupling_flow", "mixture", "vamp"])
def test_a_run_with_a_learned_prior(tmp_path, kind, trained_run):
    config = with_prior(kind)
    config.loss.path_gradient = True
    train.train_and_evaluate(config, tmp_path / "run")
    losses = [
        json.loads((folder / "summary.json").read_text())["validation"]["loss"]
        for folder in (tmp_path / "run", trained_run)
    ]
    assert losses[0] < losses[1] + 3.0  # of two epochs: a prior of many parameters begins slowly
    run = RunDirectory.open(tmp_path / "run")
    evaluate.evaluate(run)
    posterior = json.loads((tmp_path / "run" / "evaluation.json").read_text())["posterior"]
    assert "kl_per_dimension" not in posterior
    assert "whole latent vectors" in posterior["not_measured"]["kl_per_dimension"]
    assert len(posterior["aggregate_mean"]) == 8
    sample.sample(run, num=3)
    vae = vae_jax.load_run(tmp_path / "run")
    np.testing.assert_array_equal(
        vae.sample(3, seed=config.seed), np.load(tmp_path / "run" / "samples.npy")
    )
    images = datasets.load("mnist_5k").test.images
    interpolate.interpolate(run)
    between = vae.interpolate(images[:2], images[2:4], 3)
    np.testing.assert_allclose(between[:, 2], vae.reconstruct(images[2:4]), atol=1e-3)
    assert np.isfinite(vae.log_likelihood(images[:3] > 127, num_samples=9)).all()


@pytest.mark.slow
def test_pseudo_inputs_from_data_are_training_images_and_stay(tmp_path):
    config = with_prior("vamp")
    config.prior.pseudo_inputs = "data"
    config.train.num_epochs = 1
    train.train_and_evaluate(config, tmp_path / "run")
    prior = vae_jax.load_run(tmp_path / "run").params["prior"]
    images = datasets.load("mnist_5k").train.images
    found = np.rint(255.0 * np.asarray(prior["images"]))
    rows = [0, 444, 888, 1333, 1777, 2221, 2666, 3110, 3554, 3999]
    np.testing.assert_array_equal(found, images[rows])


def test_more_pseudo_inputs_than_images_are_refused(tmp_path):
    config = with_prior("vamp")
    config.prior.pseudo_inputs, config.prior.num_components = "data", 10_000
    with pytest.raises(UserError, match="num_components is 10000, must be at most the 4000"):
        train.train_and_evaluate(config, tmp_path / "run")
    error = error_of(fit_prior.fit_prior, RunDirectory.open(tmp_path / "run"), tmp_path / "new")
    assert error.startswith("this prior has nothing to learn (prior.")
    assert " prior.kind=vamp " in error and " prior.pseudo_inputs=data)" in error


@pytest.mark.slow
def test_replicas_with_a_flow_go_on_bit_for_bit(tmp_path, interrupt_save_of_step):
    config = with_prior("coupling_flow")
    config.train.num_replicas = 2
    config.train.batch_size = 1000
    train.train_and_evaluate(config, tmp_path / "whole")
    interrupt_save_of_step(8)
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(config, tmp_path / "broken")
    train.train_and_evaluate(config, tmp_path / "broken")
    for seed in (0, 1):
        whole, broken = (
            vae_jax.load_run(tmp_path / name, seed=seed).sample(2) for name in ("whole", "broken")
        )
        np.testing.assert_array_equal(whole, broken)


@pytest.mark.slow
def test_a_prior_fitted_afterwards(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr("vae_jax.evaluation.prior_fitting._NUM_EPOCHS", 3)
    config, target = with_prior("coupling_flow"), tmp_path / "new" / "fitted"
    run = with_other_prior(trained_run, config)
    fit_prior.fit_prior(run, target)
    record = json.loads((target / "config.json").read_text())
    assert record["prior_fitted_to"] == str(trained_run)
    assert record["config"]["prior"]["kind"] == "coupling_flow"
    fit = json.loads((target / "prior_fit.json").read_text())
    assert fit["epoch"] == 3
    assert len(fit["train"]) == 3
    assert len(fit["validation"]) == 4
    # It begins as the standard normal.
    assert fit["validation"][0] == pytest.approx(fit["standard_normal"], rel=1e-5)
    assert fit["validation"][3] < fit["validation"][0] - 0.5
    # What the ELBO gains is what the prior gains; the reconstruction is the same.
    summaries = [
        json.loads((folder / "summary.json").read_text())["validation"]
        for folder in (trained_run, target)
    ]
    assert summaries[0]["reconstruction"] == pytest.approx(summaries[1]["reconstruction"], rel=1e-6)
    gain = fit["validation"][0] - fit["validation"][3]
    assert summaries[0]["kl"] - summaries[1]["kl"] == pytest.approx(gain, abs=0.3)
    parent, fitted = (vae_jax.load_run(folder) for folder in (trained_run, target))
    images = datasets.load("mnist_5k").test.images[:3]
    np.testing.assert_array_equal(parent.reconstruct(images), fitted.reconstruct(images))
    assert np.abs(parent.sample(3) - fitted.sample(3)).max() > 0.1
    report.write_report(tmp_path / "new")
    text = (tmp_path / "new" / "report.md").read_text()
    assert f"--mode=fit_prior --workdir={trained_run}" in text
    with pytest.raises(UserError, match="is there already; give a new folder"):
        fit_prior.fit_prior(run, target)
    config.train.num_epochs = 3
    with pytest.raises(UserError, match="no checkpoint to go on from"):
        train.train_and_evaluate(config, target)


def test_what_cannot_be_fitted(trained_run, tmp_path):
    with pytest.raises(UserError, match="--output is missing; give a new folder"):
        fit_prior.fit_prior(with_other_prior(trained_run, with_prior("mixture")))
    config = with_prior("mixture")
    config.latent_size = 4
    with pytest.raises(UserError, match="another configuration: latent_size is 8 there, 4 here"):
        with_other_prior(trained_run, config)


@pytest.mark.parametrize("kind", ["standard_normal", "laplace"])
def test_a_prior_that_has_nothing_to_learn_is_not_fitted(trained_run, tmp_path, monkeypatch, kind):
    add_laplace_prior(monkeypatch)
    run = with_other_prior(trained_run, with_prior(kind))
    error = error_of(fit_prior.fit_prior, run, tmp_path / "new")
    assert error.startswith("this prior has nothing to learn (prior.")
    assert f" prior.kind={kind} " in error
    assert "name another, e.g. --config.prior.kind=coupling_flow" in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"loss.free_bits": 0.1}, "loss.free_bits is 0.1, must be 0 where prior.kind is coupling"),
        ({"latent_size": 1}, "latent_size is 1, must be at least 2 where prior.kind is coupling"),
        ({"prior.kind": "vam"}, "prior.kind is 'vam', must be one of .*; closest match: vamp"),
        ({"prior.num_layers": 0}, "prior.num_layers is 0, must be at least 1"),
    ],
)
def test_fields_of_the_prior(fields, expected):
    config = with_prior("coupling_flow")
    with pytest.raises(UserError, match=expected):
        configuration.from_dict(config.to_dict(), fields)


def test_the_base_space_of_a_flow_is_where_lines_are_straight():
    import dataclasses

    import jax

    from tests.support.common import make_settings, small_vae
    from vae_jax.model.priors import CouplingFlow
    from vae_jax.training import steps

    model = dataclasses.replace(small_vae(2), prior=CouplingFlow(2, 3, 8))
    params = steps.initial_state(make_settings(model), seed=0).params
    random = np.random.default_rng(0)
    params["prior"] = jax.tree.map(
        lambda leaf: leaf + 0.3 * random.normal(size=leaf.shape).astype(np.float32), params["prior"]
    )
    ends = random.normal(size=(2, 2)).astype(np.float32)
    base = generation.to_base(model, params, ends)
    middle = generation.from_base(model, params, base.mean(0, keepdims=True))
    assert np.abs(middle - ends.mean(0)).max() > 0.01
    images = generation.decode_between(model, params, ends[:1], ends[1:], 3)
    np.testing.assert_allclose(
        images[0],
        generation.decode(model, params, np.stack([ends[0], middle[0], ends[1]])),
        atol=1e-4,
    )
    grid = generation.manifold(model, params, 3)
    origin = generation.from_base(model, params, np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(grid[1, 1], generation.decode(model, params, origin)[0], atol=1e-4)
