"""Environments that users have, each in a process: the four modes work, with the same numbers."""

import numpy as np
import pytest

from tests.support import processes
from tests.support.reading import rows_without_timing
from vae_jax.runtime.files import read_json

_ARGUMENTS = (
    *processes.ARGUMENTS,
    "--config.train.batch_size=1000",
    "--config.train.num_epochs=1",
    "--config.data.binarization=dynamic",
    "--config.evaluate.num_importance_samples=2",
)


def run_all_modes(workdir, **environment):
    """Trains, gives the command again, evaluates and samples; returns standard error."""
    errors = ""
    for arguments in (_ARGUMENTS, _ARGUMENTS, ("--mode=evaluate",), ("--mode=sample",)):
        status, _, told = processes.finish(processes.start(workdir, *arguments, **environment))
        assert status == 0, told
        errors += told
    return errors


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """The folder of a run in the environment of the tests."""
    workdir = tmp_path_factory.mktemp("plain") / "run"
    run_all_modes(workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_ENABLE_X64": "1"},
        {"JAX_NUMPY_DTYPE_PROMOTION": "strict"},
        {"JAX_NUMPY_RANK_PROMOTION": "raise"},
        {"JAX_TRANSFER_GUARD": "disallow"},
        {"JAX_THREEFRY_PARTITIONABLE": "0"},
        {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
        {"PYTHONIOENCODING": "ascii"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"TFDS_DATA_DIR": "nowhere"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_all_modes_give_the_same_numbers(tmp_path, plain_run, environment):
    workdir = tmp_path / "run"
    assert run_all_modes(workdir, **environment) == ""
    assert rows_without_timing(workdir) == rows_without_timing(plain_run)
    for name in ("config.json", "evaluation.json"):
        assert read_json(workdir / name) == read_json(plain_run / name)
    np.testing.assert_array_equal(*(np.load(f / "samples.npy") for f in (workdir, plain_run)))
