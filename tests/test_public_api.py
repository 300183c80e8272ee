"""The package from a user's own program, as the README has it."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import vae_jax
from tests.support.common import ROOT, make_settings, small_vae
from vae_jax import sample
from vae_jax.evaluation import generation, log_likelihood
from vae_jax.runtime.errors import UserError
from vae_jax.training.validation import evaluate_split


def run_fresh(code):
    """Runs code in a new process; returns its standard output."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_needs_no_jax():
    assert run_fresh("import vae_jax, sys; print('jax' in sys.modules)") == "False\n"


def test_every_name_of_the_api_is_there():
    for name in vae_jax.__all__:
        assert getattr(vae_jax, name) is not None
        assert name in dir(vae_jax)
    with pytest.raises(AttributeError, match="module 'vae_jax' has no attribute 'lossess'"):
        _ = vae_jax.lossess


def test_the_readme_s_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    names = {}
    exec(blocks[0], names)
    terms = names["terms"]
    # 784 pixels of probability one half, and a posterior that is the prior.
    assert terms.loss.shape == (8,)
    assert float(terms.reconstruction[0]) == pytest.approx(543.4274, rel=1e-5)
    assert float(terms.kl[0]) == 0.0


@pytest.mark.slow
def test_paths_may_be_strings_and_mistakes_in_them_are_one_line(copied_run, small_config):
    sample.sample(small_config, str(copied_run))
    assert (copied_run / "samples.npy").exists()
    with pytest.raises(UserError, match="workdir=gs://b/run: is an address"):
        sample.sample(small_config, "gs://b/run")


@pytest.mark.parametrize(
    ("images", "error", "expected"),
    [
        (np.zeros((2, 28, 28, 1), np.float32), TypeError, "images are float32, must be uint8"),
        ([[1]], TypeError, "images are list, must be uint8"),
        (np.zeros((0, 28, 28, 1), np.uint8), ValueError, r"\(0, 28, 28, 1\), must have \(n, 28"),
        (np.zeros((2, 28, 28), np.uint8), ValueError, r"have shape \(2, 28, 28\), must have"),
        (np.zeros((2, 28, 20, 1), np.uint8), ValueError, r"must have \(n, 28, 28, 1\) with n at"),
    ],
)
def test_images_of_another_type_or_shape_are_refused(images, error, expected):
    settings = make_settings(small_vae()).evaluation
    key = jax.random.key(0)
    with pytest.raises(error, match=expected):
        evaluate_split(settings, {}, key, images)
    with pytest.raises(error, match=expected):
        generation.encode(settings.model, {}, images)
    with pytest.raises(error, match=expected):
        log_likelihood.estimate(settings.model, {}, key, images, 1, Path(), "")
