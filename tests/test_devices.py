"""Several devices and several processes: the same run as on one device, to float tolerance."""

import socket

import numpy as np
import pytest

from tests.support import processes
from tests.support.reading import rows_without_timing
from vae_jax import train
from vae_jax.runtime.files import read_json

pytestmark = pytest.mark.slow

FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
# At most 42 steps: more would let the last digits of a float grow into visible differences.
NUM_EPOCHS = "--config.train.num_epochs"


@pytest.fixture(scope="module")
def lstm(tiny_arguments):
    return (*tiny_arguments, "--config.encoder.kind=lstm", "--config.encoder.hidden_size=8")


@pytest.fixture(scope="module")
def replicas(tiny_arguments):
    """Two replicas, and a batch that two devices do not divide, and need not."""
    return (*tiny_arguments, "--config.train.num_replicas=2", "--config.train.batch_size=19")


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
def test_four_devices_train_as_one_and_alike_each_time(tmp_path, trained, lstm):
    four = trained(*lstm, **FOUR_DEVICES)
    assert_close_rows(four, trained(*lstm))
    processes.train(tmp_path / "again", *lstm, **FOUR_DEVICES)
    processes.assert_same_run(tmp_path / "again", four)


def test_a_run_goes_from_four_devices_to_two_processes_to_one_device(
    tmp_path, tiny_arguments, make_tiny_config, without_report, capsys
):
    workdir = tmp_path / "run"
    processes.train(workdir, *tiny_arguments, **FOUR_DEVICES)
    assert read_json(workdir / "config.json")["device_count"] == 4
    seldom, streamed = "--config.train.checkpoint_seconds=1000", "--config.data.on_device=false"
    output = cluster(workdir, (*tiny_arguments, f"{NUM_EPOCHS}=4", seldom, streamed))
    assert output.count("resuming after epoch 2 of 4\n") == output.count("epoch 3/4") == 1
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 2  # one process of both writes
    steps = {int(path.stem) for path in (workdir / "checkpoints").iterdir()}
    assert steps == {7, 14, 28}  # the processes save at the end alone
    config = make_tiny_config(**{"train.num_epochs": 6})
    train.train_and_evaluate(config, workdir)
    assert capsys.readouterr().out.startswith("resuming after epoch 4 of 6\n")
    train.train_and_evaluate(config, tmp_path / "alone")
    assert_close_rows(workdir, tmp_path / "alone")


def test_a_batch_that_the_devices_do_not_divide(tmp_path, tiny_arguments):
    arguments = (*tiny_arguments, "--config.train.batch_size=102")
    process = processes.start(tmp_path / "run", *arguments, **FOUR_DEVICES)
    status, _, errors = processes.finish(process)
    assert status == 1
    assert "train.batch_size is 102" in errors and "100 or 104" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_replicas_are_spread_over_devices_and_processes(tmp_path, trained, replicas):
    flags = "--xla_force_host_platform_device_count=2"
    processes.train(tmp_path / "devices", *replicas, XLA_FLAGS=flags)
    cluster(tmp_path / "processes", (*replicas, "--config.data.on_device=false"))
    for workdir in (tmp_path / "devices", tmp_path / "processes"):
        for folder in (".", "replicas/seed_0", "replicas/seed_1"):
            assert_close_rows(workdir / folder, trained(*replicas) / folder)
            assert (workdir / folder / "plots" / "loss_curves.png").exists()


def test_two_processes_of_slurm_are_ended_together(tmp_path, tiny_arguments):
    workdir, port, job = tmp_path / "run", str(free_port()), str(free_port())
    common = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    common |= {"JAX_COORDINATOR_PORT": port}
    arguments = (*tiny_arguments, f"{NUM_EPOCHS}=100000", "--distributed")
    running = [
        processes.start(workdir, *arguments, **common, SLURM_PROCID=index, SLURM_LOCALID=index)
        for index in "01"
    ]
    processes.wait_for_line(running[0], "epoch 1/")
    running[1].terminate()  # the other one is told by this one
    results = [processes.finish(process) for process in running]
    assert [status for status, _, _ in results] == [143, 143], results
    assert all("ended by SIGTERM; saved after " in errors for _, _, errors in results), results
    rows = [row for [row] in processes.latest_state(workdir)[1]]
    assert rows == rows_without_timing(workdir)


def test_an_environment_that_does_not_fit(tmp_path, tiny_arguments):
    process = processes.start(tmp_path / "run", *tiny_arguments, JAX_NUM_PROCESSES="2")
    status, _, errors = processes.finish(process)
    assert status == 1
    assert "cannot join the other processes" in errors and errors.count("\n") == 1
