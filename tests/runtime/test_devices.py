"""Whether there are other processes, and what is said of them."""

import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from tests.support.common import ROOT
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "5",
    "SLURM_STEP_NODELIST": "no-such-node[1-2]",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def connect(monkeypatch):
    """Connects in an environment; returns what JAX was asked, and what it saw of Kubernetes."""
    for name in devices._NAMED:
        monkeypatch.delenv(name, raising=False)

    def connect(environment, error=None, **arguments):
        asked = []

        def initialize(**arguments):
            asked.append((arguments, "KUBERNETES_SERVICE_HOST" in os.environ))
            if error:
                raise error

        monkeypatch.setattr(jax.distributed, "initialize", initialize)
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            devices.connect(**arguments)
            assert {name: os.environ.get(name) for name in environment} == environment
        return asked

    return connect


@pytest.mark.parametrize(
    "environment",
    [
        SLURM | {"SLURM_NTASKS": "1"},
        SLURM | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"},  # an interactive step
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:3"},
        {"JAX_NUM_PROCESSES": "1"},
        {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "nowhere:1"},
    ],
)
def test_one_process_of_one_needs_no_coordinator(connect, environment):
    assert connect(environment) == []


@pytest.mark.parametrize(
    "environment",
    [
        SLURM | {"SLURM_NTASKS": "2"},
        SLURM | {"SLURM_NTASKS": "1", "JAX_NUM_PROCESSES": "2"},
        {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "1"},  # which does not fit: JAX says so
    ],
)
def test_one_of_several_joins_the_others(connect, environment):
    assert len(connect(environment)) == 1


def test_a_pod_that_is_none_of_several_asks_nobody(connect):
    [(arguments, sees_kubernetes)] = connect(POD)
    assert arguments == {"cluster_detection_method": None}
    assert not sees_kubernetes
    [(_, sees_kubernetes)] = connect(POD | {"JOB_COMPLETION_INDEX": "0"})
    assert sees_kubernetes


def test_detection_can_be_turned_off(connect):
    nobody = ValueError("coordinator_address should be defined.")
    several = SLURM | {"SLURM_NTASKS": "2"}
    [(arguments, _)] = connect(several, nobody, detect_cluster=False)
    assert arguments == {"cluster_detection_method": "deactivate"}
    named = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    [(arguments, _)] = connect(several | named, detect_cluster=False)
    assert arguments["num_processes"] == 2


def test_an_error_of_whatever_type_says_what_the_environment_does(connect):
    with pytest.raises(UserError) as error:
        connect(POD | {"JOB_COMPLETION_INDEX": "0"}, FileNotFoundError("no token\nat all"))
    assert str(error.value).startswith(
        "cannot join the other processes (JOB_COMPLETION_INDEX=0 KUBERNETES_SERVICE_HOST=10.0.0.1):"
        " FileNotFoundError: no token; "
    )
    assert str(error.value).endswith("with --nodetect_cluster a cluster is not looked for")
    with pytest.raises(UserError, match="invalid literal for int"):
        connect({"JAX_NUM_PROCESSES": "two"})


def test_a_process_that_waits_says_for_whom_and_obeys_signals():
    code = (
        "from vae_jax.runtime import devices, interrupts; interrupts.exit_on_signal(); "
        "devices._PATIENCE_SECONDS = 0.2; devices.connect()"
    )
    environment = os.environ | SLURM | {"SLURM_NTASKS": "2"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline().startswith(
        "waiting for the other processes of the run (SLURM_NTASKS=2 SLURM_PROCID=0 "
        "SLURM_STEP_NODELIST=no-such-node[1-2]); "
    )
    start = time.monotonic()
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert time.monotonic() - start < 5
    assert process.stderr.read() == "ended by SIGTERM; the same command goes on\n"
    process.stderr.close()


def test_a_platform_that_is_not_there_is_one_line(monkeypatch):
    def lacking():
        raise AssertionError

    monkeypatch.setattr(devices.jax, "devices", lacking)
    with pytest.raises(
        UserError, match=r"JAX_PLATFORMS is .*, set JAX_PLATFORMS=cpu, or install JAX"
    ):
        devices.check_platform()
