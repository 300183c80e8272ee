"""Training processes that are ended at any moment, and resume bit for bit."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.support.processes import (
    ARGUMENTS,
    ROOT,
    assert_same_run,
    assert_same_training,
    finish,
    kill,
    start,
    train,
    wait_for_line,
)
from tests.support.reading import rows_without_timing
from vae_jax.runtime.files import PARTIAL_PREFIX
from vae_jax.runtime.interrupts import Interrupted
from vae_jax.train import train_and_evaluate
from vae_jax.training import trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cache_of_its_own(tmp_path_factory, process_run):
    """A compilation cache of this module: a process killed while it writes damages programs."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("compilation_cache") / "copied"
        shutil.copytree(os.environ["JAX_COMPILATION_CACHE_DIR"], folder)
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        yield


# Kills itself when a checkpoint is written and not yet renamed.
_KILLED_WHILE_WRITING = """
import os, signal
from vae_jax.__main__ import main

replace = os.replace

def kill_at_checkpoint(source, target):
    if "checkpoints" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = kill_at_checkpoint
main()
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
        pytest.param(signal.SIGINT, 130, id="Ctrl-C", marks=pytest.mark.nightly),
    ],
)
def test_ended_by_a_signal_and_killed_a_run_ends_as_if_it_had_not_been(
    tmp_path, process_run, number, status
):
    workdir = tmp_path / "run"
    process = start(workdir, *ARGUMENTS)
    wait_for_line(process, "epoch 1/3")
    time.sleep(0.1)  # between the epochs the signal would save nothing but the epoch
    process.send_signal(number)
    returned, _, errors = finish(process)
    assert returned == status, errors
    assert errors.startswith(f"ended by {number.name}; saved after ") and errors.count("\n") == 1
    found = re.search(r"step (\d+), epoch (\d) of 3 and a part", errors)
    assert found, errors
    # Nearly always in the second epoch; on a busy machine the signal may arrive later.
    step, epoch = map(int, found.groups())
    assert 200 * epoch < step < 200 * (epoch + 1)
    assert [row["epoch"] for row in rows_without_timing(workdir)] == [*range(1, epoch + 1)]
    command = [sys.executable, "-c", _KILLED_WHILE_WRITING, f"--workdir={workdir}", *ARGUMENTS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert [row["epoch"] for row in rows_without_timing(workdir)] == [*range(1, epoch + 2)]
    assert len(list((workdir / "checkpoints").glob(f"{PARTIAL_PREFIX}*"))) == 1
    output = train(workdir, *ARGUMENTS)
    assert output.startswith(f"resuming after step {step}, epoch {epoch} of 3 and a part\n")
    assert_same_run(workdir, process_run)


def test_a_signal_amid_validation_is_obeyed_before_its_end(
    make_tiny_config, tmp_path, tiny_run, monkeypatch, without_report
):
    evaluate_split = trainer.evaluate_split

    def asked_to_end(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_split(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate_split", asked_to_end)
        with pytest.raises(Interrupted, match="saved after step 7, epoch 0 of 2 and a part"):
            train_and_evaluate(make_tiny_config(), tmp_path)
    train_and_evaluate(make_tiny_config(), tmp_path)
    assert_same_training(tmp_path, tiny_run)


def test_a_second_process_is_refused_and_a_second_signal_is_obeyed_at_once(
    tmp_path, tiny_arguments
):
    workdir, arguments = tmp_path / "run", (*tiny_arguments, "--config.train.num_epochs=100000")
    process = start(workdir, *arguments)
    wait_for_line(process, "epoch 1/")
    process.send_signal(signal.SIGSTOP)
    status, output, errors = finish(start(workdir, *arguments))
    assert (status, output) == (1, "")
    assert f"--workdir={workdir}: process {process.pid} on " in errors and errors.count("\n") == 1
    # Both arrive before anything is done about the first.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        process.send_signal(number)
    status, _, errors = finish(process)
    name = {130: "SIGINT", 143: "SIGTERM"}.get(status)
    assert name, f"status {status}: {errors}"
    assert errors.startswith(f"ended by {name}; ") and "saved" not in errors


# JAX compares and hashes static arguments from native code, where an exception gets lost.
_SIGNAL_AMID_NATIVE_CODE = """
import os, signal
import jax
from vae_jax.runtime import interrupts

class Static:
    armed = False

    def __eq__(self, other):
        return self.signal_if_armed("__eq__")

    def __hash__(self):
        return self.signal_if_armed("__hash__")

    def signal_if_armed(self, method):
        if self.armed == method:
            os.kill(os.getpid(), signal.{signal})
        return True

interrupts.exit_on_signal()
function = jax.jit(lambda static, x: x, static_argnums=0)
function(Static(), 1.0)
Static.armed = "{method}"
print("armed")
try:
    function(Static(), 1.0)
finally:
    print("not ended")
"""


@pytest.mark.parametrize(
    ("name", "expected", "method"), [("SIGTERM", 143, "__eq__"), ("SIGINT", 130, "__hash__")]
)
def test_a_signal_amid_native_code_ends_the_process_with_one_line(name, expected, method):
    program = _SIGNAL_AMID_NATIVE_CODE.format(signal=name, method=method)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    # What was printed before is not lost in a buffer.
    assert (result.returncode, result.stdout) == (expected, "armed\n")
    assert result.stderr.startswith(f"ended by {name}; ") and result.stderr.count("\n") == 1


def test_killed_between_checkpoints_a_run_loses_their_distance_and_nothing_else(
    tmp_path, process_run
):
    workdir, seldom = tmp_path / "run", "--config.train.checkpoint_seconds=1000"
    process = start(workdir, *ARGUMENTS, seldom)
    wait_for_line(process, "epoch 2/3")
    assert kill(process, lambda: False, 0.0)
    assert not (workdir / "checkpoints").exists()
    assert train(workdir, *ARGUMENTS, seldom).startswith("epoch 1/3")
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["600.safetensors"]
    assert_same_run(workdir, process_run)


@pytest.mark.nightly
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path, process_run):
    workdir, rng = tmp_path / "run", random.Random(0)
    for _ in range(4):
        process = start(workdir, *ARGUMENTS)
        process.stdout.readline()  # of the first epoch, or that it resumes
        assert kill(process, lambda: False, rng.uniform(0.0, 0.2))
    assert train(workdir, *ARGUMENTS).startswith("resuming after")
    assert_same_run(workdir, process_run)
