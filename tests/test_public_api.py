"""The package from a user's own program, as the README has it."""

import re
import subprocess
import sys

import pytest

import vae_jax
from tests.support.common import ROOT


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
