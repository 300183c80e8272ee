"""Several configurations in one go, on real digits: trained, resumed, analyzed, reported."""

import copy

import numpy as np
import pytest

from vae_jax import shipped_configs
from vae_jax.experiments import run_experiments
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import read_json
from vae_jax.training.run_directory import RunDirectory


@pytest.fixture
def names(make_tiny_config, monkeypatch):
    """The names of two configurations; the first cannot be trained."""
    fields = {"latent_size": 2, "train.num_epochs": 1}
    configs = {
        "failing": make_tiny_config(**fields, **{"train.batch_size": 141}),
        "replicas": make_tiny_config(**fields, **{"train.num_replicas": 2}),
    }
    default = shipped_configs.get_config()
    monkeypatch.setattr(shipped_configs, "get_names", lambda: [*configs])
    monkeypatch.setattr(
        shipped_configs,
        "get_config",
        lambda name="default": copy.deepcopy(configs.get(name, default)),
    )
    return [*configs]


@pytest.mark.slow
def test_a_failing_run_is_named_and_the_others_are_trained_and_reported(tmp_path, capsys, names):
    def run():
        with pytest.raises(UserError, match=r"^1 of 2 runs failed: failing: train.batch_size is"):
            run_experiments(tmp_path, {"seed": 3}, names)
        return capsys.readouterr().out

    assert run().count("analyzing") == 1
    assert RunDirectory.open(tmp_path / "replicas").config.seed == 3
    for seed in (3, 4):
        check_analysis(tmp_path / "replicas" / "replicas" / f"seed_{seed}")
    # Again: complete runs are not trained, analyzed ones are not analyzed again.
    first = (tmp_path / "report.html").read_bytes()
    output = run()
    assert output.count("the run is complete") == 1
    assert "analyzing" not in output
    assert (tmp_path / "report.html").read_bytes() == first


def check_analysis(folder):
    analysis, summary = (read_json(folder / f"{name}.json") for name in ("analysis", "summary"))
    assert np.sum(analysis["latents"]["kl_per_dimension"]) == pytest.approx(
        summary["test"]["kl"], rel=1e-4
    )
    assert 0.1 < analysis["latents"]["probe_accuracy"] <= 1.0
    assert 0.0 < analysis["reconstructions"]["mean_squared_error"] < 0.25
    assert analysis["samples"]["num_samples"] == 30
    assert analysis["ceiling"]["frechet_distance"] < analysis["samples"]["frechet_distance"] / 2
    for name in ("latent_map", "samples", "reconstructions", "interpolation"):
        assert (folder / "plots" / f"{name}.png").exists()
