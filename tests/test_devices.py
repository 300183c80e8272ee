"""Several devices and several processes: the same run as on one device, to float tolerance."""

import socket

import numpy as np
import pytest

from tests.support import processes
from tests.support.reading import rows_without_timing
from vae_jax.runtime.files import read_json

pytestmark = pytest.mark.slow

FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
# 50 or 100 steps: more would let the last digits of a float grow into visible differences.
ARGUMENTS = (*processes.ARGUMENTS, "--config.train.batch_size=80", "--config.train.num_epochs=2")
LSTM = (
    *ARGUMENTS,
    "--config.encoder.kind=lstm",
    "--config.encoder.hidden_size=8",
    "--config.train.num_epochs=1",
)
REPLICAS = (
    *ARGUMENTS,
    "--config.train.num_replicas=2",
    "--config.train.num_epochs=1",
    "--config.train.batch_size=79",  # which two devices do not divide, and need not
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains with arguments once; returns the run directory."""
    runs = {}

    def trained(*arguments, **environment):
        key = (arguments, *environment.items())
        if key not in runs:
            runs[key] = tmp_path_factory.mktemp("trained") / "run"
            processes.train(runs[key], *arguments, **environment)
        return runs[key]

    return trained


def assert_close_rows(workdir, expected, rtol=1e-3):
    rows, expected_rows = map(rows_without_timing, (workdir, expected))
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert {*row} == {*expected_row}
        for name, value in expected_row.items():
            np.testing.assert_allclose(row[name], value, rtol=rtol, err_msg=name)


def assert_close_replicas(workdir, expected):
    for folder in (".", "replicas/seed_0", "replicas/seed_1"):
        assert_close_rows(workdir / folder, expected / folder)
        assert (workdir / folder / "plots" / "loss_curves.png").exists()


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def cluster(workdir, arguments):
    """Runs two processes that the environment names; returns the first one's output."""
    common = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    running = [
        processes.start(workdir, *arguments, **common, JAX_PROCESS_ID=index) for index in "01"
    ]
    results = [processes.finish(process) for process in running]
    for status, _, errors in results:
        assert status == 0, errors
    # Only the first one prints, except the library that connects them.
    assert all(line.startswith("[Gloo]") for line in results[1][1].splitlines())
    return results[0][1]


@pytest.mark.nightly
def test_four_devices_train_as_one_and_alike_each_time(tmp_path, trained):
    four = trained(*LSTM, **FOUR_DEVICES)
    assert_close_rows(four, trained(*LSTM))
    assert read_json(four / "config.json")["device_count"] == 4
    processes.train(tmp_path / "again", *LSTM, **FOUR_DEVICES)
    processes.assert_same_run(tmp_path / "again", four)


def test_a_run_of_four_devices_resumes_on_one(tmp_path, trained):
    workdir = tmp_path / "run"
    process = processes.start(workdir, *ARGUMENTS, **FOUR_DEVICES)
    processes.wait_for_line(process, "epoch 1/2")
    process.terminate()
    assert processes.finish(process)[0] == 143
    assert processes.train(workdir, *ARGUMENTS).startswith("resuming after step")
    assert_close_rows(workdir, trained(*ARGUMENTS))


def test_a_batch_that_the_devices_do_not_divide(tmp_path):
    arguments = (*ARGUMENTS, "--config.train.batch_size=102")
    process = processes.start(tmp_path / "run", *arguments, **FOUR_DEVICES)
    status, _, errors = processes.finish(process)
    assert status == 1
    assert "train.batch_size is 102" in errors and "100 or 104" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_replicas_are_spread_over_the_devices(tmp_path, trained):
    flags = "--xla_force_host_platform_device_count=2"
    processes.train(tmp_path / "run", *REPLICAS, XLA_FLAGS=flags)
    assert_close_replicas(tmp_path / "run", trained(*REPLICAS))


@pytest.mark.nightly
def test_replicas_are_spread_over_the_processes(tmp_path, trained):
    cluster(tmp_path / "run", REPLICAS)
    assert_close_replicas(tmp_path / "run", trained(*REPLICAS))


def test_two_processes_train_as_one(tmp_path, trained):
    workdir = tmp_path / "run"
    seldom = "--config.train.checkpoint_seconds=1000"
    assert cluster(workdir, (*ARGUMENTS, seldom)).count("epoch 1/2") == 1
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["100.safetensors"]
    assert_close_rows(workdir, trained(*ARGUMENTS))
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 1  # one process writes
    # One process reads the checkpoints of two, and has nothing left to do.
    assert "the run is complete" in processes.train(workdir, *ARGUMENTS)


def test_two_processes_of_slurm_are_ended_together_and_one_resumes(tmp_path, trained):
    workdir, port, job = tmp_path / "run", str(free_port()), str(free_port())
    common = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    common |= {"JAX_COORDINATOR_PORT": port}
    running = [
        processes.start(
            workdir, *ARGUMENTS, "--distributed", **common, SLURM_PROCID=index, SLURM_LOCALID=index
        )
        for index in "01"
    ]
    processes.wait_for_line(running[0], "epoch 1/2")
    running[1].terminate()  # the other one is told by this one
    results = [processes.finish(process) for process in running]
    assert [status for status, _, _ in results] == [143, 143], results
    # At the end of epoch 1 if the signal was in time for that, else within epoch 2.
    assert all("ended by SIGTERM; saved after " in errors for _, _, errors in results), results
    assert processes.train(workdir, *ARGUMENTS).startswith("resuming after ")
    assert_close_rows(workdir, trained(*ARGUMENTS))


def test_an_environment_that_does_not_fit(tmp_path):
    process = processes.start(tmp_path / "run", *ARGUMENTS, JAX_NUM_PROCESSES="2")
    status, _, errors = processes.finish(process)
    assert status == 1
    assert "cannot join the other processes" in errors and errors.count("\n") == 1
