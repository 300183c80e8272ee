"""Environments that users have: training, evaluating and sampling give the same numbers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support.common import ROOT
from tests.support.reading import rows_without_timing
from vae_jax.runtime.files import read_json

_ENVIRONMENT = {
    **{"JAX_ENABLE_X64": "1", "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_DEFAULT_PRNG_IMPL": "rbg"},
    **{"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"},
    "JAX_TRANSFER_GUARD": "disallow",
    **{"PYTHONIOENCODING": "ascii", "TFDS_DATA_DIR": "nowhere"},
    **{"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"},
    **{"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
}
# Each command as the command line runs it, one after another in one process.
_RUN = """
import json, sys
from absl import app
from absl.testing import flagsaver
from vae_jax import __main__ as main
app.define_help_flags()
main.output.escape_what_cannot_be_encoded()
for arguments in json.loads(sys.argv[1]):
    with flagsaver.flagsaver():
        main._main(main._parse_flags(["main.py", *arguments]))
"""


def run_modes(workdir, train, **environment):
    """Trains, evaluates and samples in one process; returns standard error."""
    modes = (train, ("--mode=evaluate",), ("--mode=sample",))
    commands = json.dumps([[f"--workdir={workdir}", *arguments] for arguments in modes])
    result = subprocess.run(
        [sys.executable, "-c", _RUN, commands],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.mark.slow
def test_all_modes_give_the_same_numbers(tmp_path, tiny_arguments):
    train = (
        *tiny_arguments,
        "--config.data.binarization=dynamic",
        "--config.evaluate.num_importance_samples=2",
    )
    plain, workdir = tmp_path / "plain", tmp_path / "run"
    run_modes(plain, train)
    assert run_modes(workdir, train, **_ENVIRONMENT) == ""
    assert rows_without_timing(workdir) == rows_without_timing(plain)
    for name in ("config.json", "evaluation.json"):
        assert read_json(workdir / name) == read_json(plain / name)
    np.testing.assert_array_equal(*(np.load(f / "samples.npy") for f in (workdir, plain)))
