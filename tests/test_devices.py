"""Several devices and several processes: the same run as on one device, to float tolerance."""

import socket

import numpy as np
import pytest

from tests.support import processes
from tests.support.reading import rows_without_timing
from vae_jax.runtime.files import read_json
from vae_jax.training.metrics import read_rows

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
def one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one_device") / "run"
    processes.train(workdir, *ARGUMENTS)
    return workdir


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("four_devices") / "run"
    processes.train(workdir, *LSTM, **FOUR_DEVICES)
    return workdir


def assert_close_rows(workdir, expected, rtol=1e-3):
    rows, expected_rows = map(rows_without_timing, (workdir, expected))
    assert len(rows) == len(expected_rows)
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert {*row} == {*expected_row}
        for name, value in expected_row.items():
            np.testing.assert_allclose(row[name], value, rtol=rtol, err_msg=name)


def cluster(workdir, arguments, *environments):
    """Runs the processes of a cluster; returns the first one's output."""
    running = [processes.start(workdir, *arguments, **environment) for environment in environments]
    results = [processes.finish(process) for process in running]
    for status, _, errors in results:
        assert status == 0, errors
    # Only the first one speaks, but for the library that connects them.
    assert all(line.startswith("[Gloo]") for _, o, _ in results[1:] for line in o.splitlines())
    return results[0][1]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def named_in_the_environment(count):
    common = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
    }
    return [common | {"JAX_PROCESS_ID": str(index)} for index in range(count)]


def under_slurm(count):
    """What `srun` tells the processes it starts on one node."""
    common = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    return [
        common | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)} for index in range(count)
    ]


def test_four_devices_train_as_one(tmp_path, four_devices):
    processes.train(tmp_path / "one", *LSTM)
    assert_close_rows(four_devices, tmp_path / "one")
    record = read_json(four_devices / "config.json")
    assert record["device_count"] == 4


def test_four_devices_train_alike_each_time(four_devices, tmp_path):
    processes.train(tmp_path / "run", *LSTM, **FOUR_DEVICES)
    processes.assert_same_run(tmp_path / "run", four_devices)


def test_a_run_of_four_devices_goes_on_with_one(one_device, tmp_path):
    workdir = tmp_path / "run"
    process = processes.start(workdir, *ARGUMENTS, **FOUR_DEVICES)
    processes.wait_for_line(process, "epoch 1/2")
    process.terminate()
    assert processes.finish(process)[0] == 143
    assert processes.train(workdir, *ARGUMENTS).startswith("resuming after step")
    assert_close_rows(workdir, one_device)


def test_a_batch_that_the_devices_do_not_divide(tmp_path):
    arguments = (*ARGUMENTS, "--config.train.batch_size=102")
    process = processes.start(tmp_path / "run", *arguments, **FOUR_DEVICES)
    status, _, errors = processes.finish(process)
    assert status == 1
    assert errors == (
        "error: train.batch_size is 102, which 4 devices do not divide; nearest: 100 or 104; or a "
        "multiple of 4 as train.num_replicas\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def replicas_on_one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("replicas") / "run"
    processes.train(workdir, *REPLICAS)
    return workdir


def assert_close_replicas(workdir, expected):
    for folder in (".", "replicas/seed_0", "replicas/seed_1"):
        assert_close_rows(workdir / folder, expected / folder)
        assert (workdir / folder / "plots" / "loss_curves.png").exists()


def test_replicas_are_spread_over_the_devices(tmp_path, replicas_on_one_device):
    flags = "--xla_force_host_platform_device_count=2"
    processes.train(tmp_path / "run", *REPLICAS, XLA_FLAGS=flags)
    assert_close_replicas(tmp_path / "run", replicas_on_one_device)


def test_replicas_are_spread_over_the_processes(tmp_path, replicas_on_one_device):
    cluster(tmp_path / "run", REPLICAS, *named_in_the_environment(2))
    assert_close_replicas(tmp_path / "run", replicas_on_one_device)


def test_two_processes_train_as_one(tmp_path, one_device):
    workdir = tmp_path / "run"
    output = cluster(workdir, ARGUMENTS, *named_in_the_environment(2))
    assert output.count("epoch 1/2") == 1
    assert_close_rows(workdir, one_device)
    assert read_rows(workdir / "metrics.csv")[-1]["step"] == 100
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 1  # one process writes
    # One process reads what two saved, and has nothing left to do.
    assert "the run is complete" in processes.train(workdir, *ARGUMENTS)


def test_two_processes_of_slurm_are_ended_together_and_one_goes_on(tmp_path, one_device):
    workdir = tmp_path / "run"
    running = [
        processes.start(workdir, *ARGUMENTS, **environment) for environment in under_slurm(2)
    ]
    processes.wait_for_line(running[0], "epoch 1/2")
    running[1].terminate()  # the other one is told by this one
    results = [processes.finish(process) for process in running]
    assert [status for status, _, _ in results] == [143, 143], results
    # At the end of epoch 1 if the signal was in time for that, else within epoch 2.
    assert all("ended by SIGTERM; saved after " in errors for _, _, errors in results), results
    assert processes.train(workdir, *ARGUMENTS).startswith("resuming after ")
    assert_close_rows(workdir, one_device)


def test_an_environment_that_does_not_fit(tmp_path):
    process = processes.start(tmp_path / "run", *ARGUMENTS, JAX_NUM_PROCESSES="2")
    status, _, errors = processes.finish(process)
    assert status == 1
    assert errors.startswith("error: cannot join the other processes (JAX_NUM_PROCESSES=2): ")
    assert errors.count("\n") == 1
