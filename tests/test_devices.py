"""Several devices and several processes: the same run as on one device, to float tolerance."""

import socket
import time

import pytest

from tests.support import processes
from tests.support.common import error_of
from vae_jax import train
from vae_jax.runtime import division
from vae_jax.runtime.files import read_json

FOUR_DEVICES = {"JAX_NUM_CPU_DEVICES": "4", "JAX_TRANSFER_GUARD": "disallow"}
# At most 42 steps: more would let the last digits of a float grow into visible differences.
NUM_EPOCHS = "--config.train.num_epochs"
STREAMED = "--config.data.on_device=false"


def assert_close_rows(workdir, expected):
    rows, expected_rows = map(processes.rows_without_timing, (workdir, expected))
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(expected_row, rel=1e-3)


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return str(listener.getsockname()[1])


def start_two(workdir, arguments, index_names, **environment):
    """Starts two processes of one run; the environment tells each its index."""
    return [
        processes.start(workdir, *arguments, **environment, **dict.fromkeys(index_names, index))
        for index in "01"
    ]


def test_a_batch_that_the_devices_do_not_divide(monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
    monkeypatch.setattr(division.jax, "device_count", lambda: 4)
    assert "nearest: 100 or 104" in error_of(division.make_mesh, 1, 102)


@pytest.mark.slow
def test_a_run_goes_from_four_devices_to_two_processes_to_one_device(
    tmp_path, tiny_arguments, make_tiny_config, without_report, capsys
):
    workdir = tmp_path / "run"
    processes.train(workdir, *tiny_arguments, **FOUR_DEVICES)
    assert read_json(workdir / "config.json")["device_count"] == 4
    arguments = (*tiny_arguments, f"{NUM_EPOCHS}=6", "--distributed", STREAMED)
    job = {"SLURM_JOB_ID": free_port(), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    names = ("SLURM_PROCID", "SLURM_LOCALID")
    first, second = start_two(workdir, arguments, names, JAX_COORDINATOR_PORT=free_port(), **job)
    processes.wait_for_line(first, "resuming after epoch 2 of 6")
    time.sleep(0.2)  # the first step is being compiled
    second.terminate()  # it tells the other one
    results = [processes.finish(process) for process in (first, second)]
    assert [status for status, _, _ in results] == [143, 143], results
    assert all("ended by SIGTERM; saved after step " in errors for _, _, errors in results), results
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 2  # one process of both writes
    rows = processes.rows_without_timing(workdir)
    assert rows == [row for [row] in processes.latest_state(workdir)[1]]
    config = make_tiny_config(**{"train.num_epochs": 6})
    train.train_and_evaluate(config, workdir)
    assert capsys.readouterr().out.startswith("resuming after step ")
    train.train_and_evaluate(config, tmp_path / "alone")
    assert_close_rows(workdir, tmp_path / "alone")


@pytest.mark.nightly
def test_replicas_are_spread_over_devices_and_processes(tmp_path, tiny_arguments):
    # Two devices do not divide the batch, and need not.
    replicas = (*tiny_arguments, "--config.train.num_replicas=2", "--config.train.batch_size=19")
    processes.train(tmp_path / "one", *replicas)
    processes.train(tmp_path / "devices", *replicas, JAX_NUM_CPU_DEVICES="2")
    named = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    replicas = (*replicas, STREAMED)
    running = start_two(tmp_path / "processes", replicas, ["JAX_PROCESS_ID"], **named)
    results = [processes.finish(process) for process in running]
    assert [status for status, _, _ in results] == [0, 0], results
    # Only the first one prints, except the library that connects them.
    assert all(line.startswith("[Gloo]") for line in results[1][1].splitlines())
    for workdir in (tmp_path / "devices", tmp_path / "processes"):
        for folder in (".", "replicas/seed_0", "replicas/seed_1"):
            assert_close_rows(workdir / folder, tmp_path / "one" / folder)
            assert (workdir / folder / "plots" / "loss_curves.png").exists()
