"""The package from a user's own program, as the README has it."""

import jax
import jax.numpy as jnp
import pytest

import vae_jax
from tests.support.common import (
    ROOT,
    assert_trees_equal,
    error_of,
    make_small_config,
    python_block,
)
from tests.support.processes import rows_without_timing


def test_every_name_of_the_api_is_there():
    for name in vae_jax.__all__:
        assert getattr(vae_jax, name) is not None
    with pytest.raises(AttributeError, match="module 'vae_jax' has no attribute 'lossess'"):
        _ = vae_jax.lossess


@pytest.mark.slow
def test_the_readme_s_python_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(python_block("README.md", "load_run"), names := {})
    assert names["samples"].shape == (16, 28, 28, 1)
    assert names["mean"].shape == (16, 40)
    assert names["path"].shape == (10, 28, 28, 1)


def test_the_documented_pure_functions_run():
    names = {}
    exec(python_block("docs/python.md", "negative_elbo("), names)
    terms = names["terms"]
    # 784 pixels of probability one half, and a posterior that is the prior.
    assert terms["loss"].shape == (8,)
    assert float(terms["reconstruction"][0]) == pytest.approx(543.4274, rel=1e-5)
    assert float(terms["kl"][0]) == 0.0


def test_a_configuration_is_had_by_its_name():
    config = vae_jax.get_config("quickstart")
    assert config.data.name == "mnist_5k"
    assert vae_jax.get_config().keys() == config.keys()
    assert error_of(vae_jax.get_config, "quickstat").endswith("closest match: quickstart")


def test_documented_training_from_python_is_that_of_the_command_line(
    make_tiny_config, tiny_run, tmp_path, monkeypatch
):
    names, given = ("jax_enable_x64", "jax_threefry_partitionable"), {}
    before = {name: jax.config.values[name] for name in names}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vae_jax, "get_config", lambda name: make_tiny_config())
    code = python_block("docs/python.md", "train_run").replace("num_epochs = 5", "num_epochs = 2")
    try:  # whatever the options of the user's program are
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_threefry_partitionable", False)
        exec(code, given)
        assert jnp.ones(1).dtype == jnp.float64
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    vae, expected = given["vae"], vae_jax.load_run(str(tiny_run))
    assert given["images"].shape == (16, 8, 8, 1)
    assert rows_without_timing(tmp_path / "runs/notebook") == rows_without_timing(tiny_run)
    assert (vae.seed, vae.config.to_dict()) == (expected.seed, expected.config.to_dict())
    assert_trees_equal(vae.params, expected.params)


def test_a_mistake_in_a_configuration_from_python_is_one_line(tmp_path):
    config = make_small_config()
    config.loss.kl_weight = -1.0
    assert "loss.kl_weight is -1.0" in error_of(vae_jax.train_run, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
