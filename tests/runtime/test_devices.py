"""Joining other processes, and platforms that JAX lacks."""

import jax
import pytest

from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "5",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "no-such-node[1-2]",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
NAMED = {"JAX_COORDINATOR_ADDRESS": "here:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("environment", "distributed", "expected"),
    [
        (SLURM, False, []),  # a cluster is never guessed
        (SLURM, True, [{"cluster_detection_method": None}]),
        (
            SLURM | NAMED,
            False,
            [{"cluster_detection_method": "deactivate", "num_processes": 2, "process_id": 1}],
        ),
        (NAMED | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, False, []),
    ],
    ids=["unasked", "asked", "named", "alone"],
)
def test_other_processes_are_joined_if_asked_or_named(
    monkeypatch, environment, distributed, expected
):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **named: calls.append(named))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    devices.connect(distributed)
    assert calls == expected


def test_an_environment_that_does_not_fit_is_one_line(monkeypatch):
    def initialize(**named):
        raise FileNotFoundError("no token\nat all")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=r"no token.; JAX_COORDINATOR_ADDRESS"):
        devices.connect(distributed=True)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(UserError, match="invalid literal for int"):
        devices.connect()


def test_a_platform_that_is_not_there_is_one_line(monkeypatch):
    def lacking():
        raise AssertionError

    monkeypatch.setattr(devices.jax, "devices", lacking)
    with pytest.raises(
        UserError, match=r"JAX_PLATFORMS is .*, set JAX_PLATFORMS=cpu, or install JAX"
    ):
        devices.check_platform()
