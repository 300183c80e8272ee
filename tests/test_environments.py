"""Environments that users have, in processes: the four modes work, with the same numbers."""

import shutil

import numpy as np
import pytest

from tests.support import processes
from tests.support.reading import rows_without_timing
from vae_jax.runtime.files import read_json

_ARGUMENTS = (
    *processes.ARGUMENTS,
    "--config.train.batch_size=1000",
    "--config.train.num_epochs=2",
    "--config.data.binarization=dynamic",
    "--config.evaluate.num_importance_samples=2",
)


def run_all_modes(workdir, **environment):
    """Trains, resumes from the first epoch, evaluates and samples; returns standard error."""
    errors = ""
    for arguments in (_ARGUMENTS, _ARGUMENTS, ("--mode=evaluate",), ("--mode=sample",)):
        if (workdir / "summary.json").exists() and arguments == _ARGUMENTS:
            shutil.rmtree(max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name)))
            (workdir / "summary.json").unlink()
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
        {"JAX_ENABLE_X64": "1", "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_DEFAULT_PRNG_IMPL": "rbg"},
        {
            "JAX_NUMPY_DTYPE_PROMOTION": "strict",
            "JAX_NUMPY_RANK_PROMOTION": "raise",
            "JAX_TRANSFER_GUARD": "disallow",
        },
        {
            "PYTHONIOENCODING": "ascii",
            "TFDS_DATA_DIR": "nowhere",
            **{"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"},
            **{"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        },
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
