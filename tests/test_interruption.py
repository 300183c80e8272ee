"""Training processes that are ended at any moment, and go on bit for bit."""

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
    finish,
    is_writing_a_checkpoint,
    kill,
    start,
    train,
    wait_for_line,
)
from tests.support.reading import rows_without_timing
from vae_jax.runtime.interrupts import Interrupted
from vae_jax.train import train_and_evaluate
from vae_jax.training import trainer


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_signal_saves_within_the_epoch_and_says_how_to_go_on(
    tmp_path, process_run, number, status
):
    workdir = tmp_path / "run"
    process = start(workdir, *ARGUMENTS)
    wait_for_line(process, "epoch 1/3")
    time.sleep(0.1)  # between the epochs the signal would save nothing but the epoch
    process.send_signal(number)
    returned, _, errors = finish(process)
    assert returned == status, errors
    place = r"step (\d+), epoch (\d) of 3 and a part"
    found = re.fullmatch(
        f"ended by {number.name}; saved after {place}; the same command goes on\n", errors
    )
    assert found, errors
    # Nearly always in the second epoch; on a busy machine the signal may come later.
    step, epoch = map(int, found.groups())
    assert 200 * epoch < step < 200 * (epoch + 1)
    assert [row["epoch"] for row in rows_without_timing(workdir)] == [*range(1, epoch + 1)]
    output = train(workdir, *ARGUMENTS)
    assert output.startswith(f"resuming after step {step}, epoch {epoch} of 3 and a part\n")
    assert_same_run(workdir, process_run)


@pytest.mark.slow
def test_a_signal_amid_validation_is_obeyed_before_its_end(
    small_config, tmp_path, trained_run, monkeypatch
):
    evaluate_split = trainer.evaluate_split

    def asked_to_end(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_split(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate_split", asked_to_end)
        with pytest.raises(Interrupted) as stopped:
            train_and_evaluate(small_config, tmp_path)
    assert str(stopped.value) == "saved after step 40, epoch 0 of 2 and a part"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["40"]
    train_and_evaluate(small_config, tmp_path)
    assert_same_run(tmp_path, trained_run)


@pytest.mark.slow
def test_the_length_of_chunks_does_not_change_a_run(
    small_config, tmp_path, trained_run, monkeypatch
):
    monkeypatch.setattr(trainer, "_CHUNK_SECONDS", 0.0)  # a step each
    train_and_evaluate(small_config, tmp_path)
    assert_same_run(tmp_path, trained_run)


def test_a_chunk_takes_as_many_steps_as_fit_into_its_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now)
    pace, lengths = trainer._Pace(), []
    pace.update(0)
    for seconds_per_step in (0.14, 30.0, 0.7, 0.0):
        num_steps = pace.steps_per_chunk
        now += seconds_per_step * num_steps
        pace.update(num_steps)
        lengths.append(pace.steps_per_chunk)
    assert lengths == [10, 1, 2, 32]


def test_a_second_signal_is_obeyed_at_once(tmp_path):
    process = start(tmp_path / "run", *ARGUMENTS)
    wait_for_line(process, "epoch 1/3")
    # Stopped, so that both arrive before anything is done about the first.
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    status, _, errors = finish(process)
    name = {130: "SIGINT", 143: "SIGTERM"}.get(status)
    assert name, f"status {status}: {errors}"
    assert errors == f"ended by {name}; the same command goes on\n"


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

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cache_of_its_own(tmp_path_factory, process_run):
    """Keeps the programs of this module apart: a process killed while it writes damages them."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("compilation_cache") / "copied"
        shutil.copytree(os.environ["JAX_COMPILATION_CACHE_DIR"], folder)
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        yield


@pytest.mark.parametrize(
    ("name", "expected"), [("SIGTERM", 143), ("SIGINT", 130)], ids=["SIGTERM", "Ctrl-C"]
)
@pytest.mark.parametrize("method", ["__eq__", "__hash__"])
def test_a_signal_amid_native_code_ends_the_process_with_one_line(name, expected, method):
    program = _SIGNAL_AMID_NATIVE_CODE.format(signal=name, method=method)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == expected
    # What was printed before is not lost in a buffer.
    assert result.stdout == "armed\n"
    assert result.stderr == f"ended by {name}; the same command goes on\n"


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path, process_run):
    workdir, rng = tmp_path / "run", random.Random(0)

    def writing():
        return is_writing_a_checkpoint(workdir)

    def never():
        return False

    moments = ((never, rng.uniform(0.0, 0.2)), (writing, 60.0), (never, rng.uniform(0.0, 0.2)))
    for moment, seconds in moments:
        process = start(workdir, *ARGUMENTS)
        process.stdout.readline()  # of the first epoch, or that it resumes
        assert kill(process, moment, seconds)
    output = train(workdir, *ARGUMENTS)
    assert output.startswith("resuming after")
    assert_same_run(workdir, process_run)


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path):
    workdir = tmp_path / "run"
    first = start(workdir, *ARGUMENTS)
    wait_for_line(first, "epoch 1/3")
    status, output, errors = finish(start(workdir, *ARGUMENTS))
    assert (status, output) == (1, "")
    assert errors.startswith(f"error: --workdir={workdir}: process {first.pid} on ")
    assert errors.endswith("is training there; wait for it, stop it, or give another folder\n")
    assert finish(first)[0] == 0
