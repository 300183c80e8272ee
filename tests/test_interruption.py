"""Runs that are ended at any moment, and resume bit for bit."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.common import ROOT, error_of
from tests.support.processes import (
    assert_same_run,
    assert_same_training,
    rows_without_timing,
    run_python,
)
from vae_jax.runtime import interrupts
from vae_jax.train import train_and_evaluate
from vae_jax.training import trainer

# Sends itself Ctrl-C in the second epoch.
_ENDED = """
import os, signal
from vae_jax.__main__ import main
from vae_jax.training import trainer

def signaled(settings, state, data, epoch, *rest):
    if epoch == 2:
        os.kill(os.getpid(), signal.SIGINT)
    return train_one_epoch(settings, state, data, epoch, *rest)

train_one_epoch, trainer.train_one_epoch = trainer.train_one_epoch, signaled
main()
"""
# Kills itself when a checkpoint is written and not yet renamed.
_KILLED = """
import os, signal
from vae_jax.__main__ import main

def kill_at_checkpoint(source, target):
    if "checkpoints" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

replace, os.replace = os.replace, kill_at_checkpoint
main()
"""


@pytest.mark.slow
def test_ended_by_a_signal_and_killed_a_run_ends_as_if_it_had_not_been(
    tmp_path, tiny_arguments, make_tiny_config, tiny_run, capsys
):
    place = "step 8, epoch 1 of 2 and a part"
    result = run_python(_ENDED, f"--workdir={tmp_path}", *tiny_arguments)
    line = f"ended by SIGINT; saved after {place}; the same command resumes it\n"
    assert (result.returncode, result.stderr) == (130, line)
    assert [row["epoch"] for row in rows_without_timing(tmp_path)] == [1]
    result = run_python(_KILLED, f"--workdir={tmp_path}", *tiny_arguments)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert [row["epoch"] for row in rows_without_timing(tmp_path)] == [1, 2]
    assert len(list((tmp_path / "checkpoints").glob(".partial*"))) == 1
    train_and_evaluate(make_tiny_config(), tmp_path)
    assert capsys.readouterr().out.startswith(f"resuming after {place}\n")
    assert_same_run(tmp_path, tiny_run)


def test_amid_validation_another_process_is_refused_and_a_signal_obeyed(
    make_tiny_config, tmp_path, tiny_run, monkeypatch, without_report
):
    evaluate_split = trainer.evaluate_split

    def asked_to_end(*arguments, **named):
        error = error_of(train_and_evaluate, make_tiny_config(), tmp_path)
        assert f"process {os.getpid()} on " in error
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_split(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate_split", asked_to_end)
        with pytest.raises(interrupts.Interrupted, match="saved after step 7, epoch 0 of 2 and a"):
            train_and_evaluate(make_tiny_config(), tmp_path)
    train_and_evaluate(make_tiny_config(), tmp_path)
    assert_same_training(tmp_path, tiny_run)


def test_a_second_signal_is_obeyed_at_once():
    received = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = {n: signal.signal(n, lambda n, frame: received.append(n)) for n in numbers}
    try:
        with interrupts.defer_signals() as request:
            for number in numbers:
                signal.raise_signal(number)
        assert (request.signal_number, received) == (signal.SIGTERM, [signal.SIGINT])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


# JAX hashes static arguments from native code, where an exception gets lost.
_SIGNAL_AMID_NATIVE_CODE = """
import os, signal
import jax
from vae_jax.runtime import interrupts

class Static:
    def __hash__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

interrupts.exit_on_signal()
print("armed")
try:
    jax.jit(lambda static, x: x, static_argnums=0)(Static(), 1.0)
finally:
    print("not ended")
"""


@pytest.mark.slow
def test_a_signal_amid_native_code_ends_the_process_with_one_line():
    result = run_python(_SIGNAL_AMID_NATIVE_CODE)
    # What was printed before is not lost in a buffer.
    assert (result.returncode, result.stdout) == (143, "armed\n")
    assert result.stderr.startswith("ended by SIGTERM; ") and result.stderr.count("\n") == 1


@pytest.mark.nightly
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))  # a kill damages programs
    command = [sys.executable, "benchmarks/kill_resume.py", "--kills=5"]
    subprocess.run(command, cwd=ROOT, check=True)
