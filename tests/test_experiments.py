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
def names(small_config, monkeypatch):
    """The names of two configurations that are there beside the default."""
    small_config.train.num_epochs = 1
    small_config.latent_size = 2
    failing = copy.deepcopy(small_config)
    failing.train.batch_size = 4001
    small_config.train.num_replicas = 2
    configs = {
        "default": shipped_configs.get_config(),
        "failing": failing,
        "replicas": small_config,
    }
    monkeypatch.setattr(shipped_configs, "get_names", lambda: ["failing", "replicas"])
    monkeypatch.setattr(
        shipped_configs, "get_config", lambda name="default": copy.deepcopy(configs[name])
    )
    return shipped_configs.get_names()


@pytest.mark.slow
def test_a_failing_run_is_named_and_does_not_stop_the_rest(tmp_path, capsys, names):
    def run():
        run_experiments(tmp_path, {"seed": 3}, names)

    with pytest.raises(UserError, match=r"^1 of 2 runs failed: failing: train.batch_size is 4001"):
        run()
    output = capsys.readouterr().out
    assert "replicas, 2 of 2: " in output
    assert output.count("analyzing") == 1
    assert f"wrote {tmp_path / 'report.html'}" in output
    assert RunDirectory.open(tmp_path / "replicas").config.seed == 3
    for seed in (3, 4):
        check_analysis(tmp_path / "replicas" / "replicas" / f"seed_{seed}")
    # Again: what is complete is skipped, what is analyzed is not analyzed again.
    first = (tmp_path / "report.html").read_bytes()
    with pytest.raises(UserError, match="1 of 2 runs failed"):
        run()
    output = capsys.readouterr().out
    assert output.count("the run is complete") == 1
    assert "analyzing" not in output
    assert (tmp_path / "report.html").read_bytes() == first


def test_an_error_of_whatever_type_stops_no_other_run(tmp_path, names, monkeypatch):
    def train(config, workdir, lock_workdir):
        raise ZeroDivisionError("division by zero") if workdir.name == "failing" else OSError(28)

    monkeypatch.setattr("vae_jax.train.train_and_evaluate", train)
    expected = "2 of 2 runs failed: failing: ZeroDivisionError: division by zero; replicas: OSError"
    with pytest.raises(UserError, match=expected):
        run_experiments(tmp_path, {}, names)


def check_analysis(folder):
    analysis = read_json(folder / "analysis.json")
    summary = read_json(folder / "summary.json")
    kl = analysis["latents"]["kl_per_dimension"]
    assert len(kl) == 2
    assert np.sum(kl) == pytest.approx(summary["test"]["kl"], rel=1e-4)
    assert 0.1 < analysis["latents"]["probe_accuracy"] <= 1.0
    assert 0.0 < analysis["reconstructions"]["mean_squared_error"] < 0.2
    assert 0.0 < analysis["reconstructions"]["sharpness"] < 1.0
    assert analysis["interpolations"]["max_mean_step_ratio"] >= 1.0
    assert analysis["samples"]["num_samples"] == 500
    assert analysis["ceiling"]["precision"] > 0.8
    assert analysis["ceiling"]["frechet_distance"] < analysis["samples"]["frechet_distance"] / 5
    for name in ("latent_map", "manifold", "samples", "reconstructions", "interpolation"):
        assert (folder / "plots" / f"{name}.png").exists()
