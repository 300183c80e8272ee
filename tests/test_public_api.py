"""The package from a user's own program, as the README has it."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vae_jax
from tests.support.common import (
    ROOT,
    assert_trees_equal,
    error_of,
    make_settings,
    make_small_config,
    small_vae,
)
from tests.support.reading import rows_without_timing
from vae_jax.evaluation import log_likelihood
from vae_jax.runtime.errors import UserError
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.validation import evaluate_split


def test_every_name_of_the_api_is_there_and_importing_it_needs_no_jax():
    code = "import vae_jax, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    for name in vae_jax.__all__:
        assert getattr(vae_jax, name) is not None
        assert name in dir(vae_jax)
    with pytest.raises(AttributeError, match="module 'vae_jax' has no attribute 'lossess'"):
        _ = vae_jax.lossess


def python_block(path, word):
    """The one Python block of a page that has this word."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
    [code] = (block for block in blocks if word in block)
    return code


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
    before = config.train.num_epochs
    config.train.num_epochs += 3
    assert vae_jax.get_config("quickstart").train.num_epochs == before
    assert vae_jax.get_config().keys() == config.keys()
    assert error_of(vae_jax.get_config, "quickstat").endswith("closest match: quickstart")


@pytest.mark.slow
def test_training_from_python_is_that_of_the_command_line(
    make_tiny_config, tiny_run, tmp_path, capsys
):
    names = ("jax_enable_x64", "jax_threefry_partitionable")
    before = {name: jax.config.values[name] for name in names}
    try:  # whatever the options of the user's program are
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_threefry_partitionable", False)
        vae = vae_jax.train_run(make_tiny_config(), str(tmp_path / "run"))
        assert jnp.ones(1).dtype == jnp.float64
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert rows_without_timing(tmp_path / "run") == rows_without_timing(tiny_run)
    expected = vae_jax.load_run(tiny_run)
    assert (vae.seed, vae.config.to_dict()) == (expected.seed, expected.config.to_dict())
    assert_trees_equal(vae.params, expected.params)
    np.testing.assert_array_equal(vae.sample(3), expected.sample(3))
    capsys.readouterr()
    again = vae_jax.train_run(make_tiny_config(), tmp_path / "run")
    assert "the run is complete; best epoch" in capsys.readouterr().out
    assert_trees_equal(again.params, vae.params)


@pytest.mark.slow
def test_the_documented_training_from_python_runs(make_tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vae_jax, "get_config", lambda name: make_tiny_config())
    exec(python_block("docs/python.md", "train_run"), names := {})
    assert names["images"].shape == (16, 8, 8, 1)
    assert (tmp_path / "runs" / "notebook" / "summary.json").exists()


def test_a_mistake_in_a_configuration_from_python_is_one_line(tmp_path, capsys):
    config = make_small_config()
    config.loss.kl_weight = -1.0
    assert "loss.kl_weight is -1.0" in error_of(vae_jax.train_run, config, tmp_path / "run")
    config = make_small_config()
    config.train.batch_size = 5000
    assert "train.batch_size is 5000" in error_of(vae_jax.train_run, config, tmp_path / "run")
    assert "encoder.hidden_size" in capsys.readouterr().err  # it has no effect
    assert not (tmp_path / "run").exists()


def test_paths_may_be_strings_and_mistakes_in_them_are_one_line(tiny_run):
    assert vae_jax.load_run(str(tiny_run)).seed == 0
    with pytest.raises(UserError, match="workdir=gs://b/run: is an address"):
        RunDirectory.open("gs://b/run")


@pytest.mark.parametrize(
    ("images", "error", "expected"),
    [
        (np.zeros((2, 28, 28, 1), np.float32), TypeError, "images are float32, must be uint8"),
        ([[1]], TypeError, "images are list, must be uint8"),
        (np.zeros((0, 28, 28, 1), np.uint8), ValueError, r"\(0, 28, 28, 1\), must have \(n, 28"),
        (np.zeros((2, 28, 28), np.uint8), ValueError, r"have shape \(2, 28, 28\), must have"),
    ],
)
def test_images_of_another_type_or_shape_are_refused(images, error, expected):
    settings = make_settings(small_vae()).evaluation
    key, data = jax.random.key(0), vae_jax.Batch(images)
    with pytest.raises(error, match=expected):
        evaluate_split(settings, {}, key, data)
    with pytest.raises(error, match=expected):
        log_likelihood.estimate(settings.model, {}, key, data, 1)
