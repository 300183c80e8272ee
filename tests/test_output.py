"""Output that cannot carry what is told, or that nobody reads: nothing is lost by it."""

import io
import os
import subprocess
import sys

import pytest

from tests.support.common import ROOT, make_settings, small_vae
from tests.support.processes import latest_state, start, wait_for_line
from vae_jax import evaluate
from vae_jax.evaluation.measures import EVALUATION_NAME, Evaluation, LikelihoodMeasures
from vae_jax.evaluation.trained_run import Replica, TrainedRun
from vae_jax.runtime.files import read_record, write_atomically
from vae_jax.training import run_directory, steps
from vae_jax.training.run_directory import RunDirectory


@pytest.mark.parametrize("mode", ["escaped", "raising"])
def test_results_are_written_before_they_are_told(tmp_path, monkeypatch, small_config, mode):
    settings = make_settings(small_vae(3))
    params = steps.initial_state(settings, seed=0).params
    replica = Replica(tmp_path, 0, 1, 40, settings.evaluation, params)
    likelihood = LikelihoodMeasures(90.0, 0.5, 91.0, 1.0, 2.0, 500, 5, 7)
    small_config.data.binarization = "dynamic"
    run = RunDirectory(tmp_path, {}, small_config)
    monkeypatch.setattr(
        "vae_jax.evaluation.trained_run.restore_to_write",
        lambda *_: TrainedRun(run, tmp_path, [], [replica]),
    )
    monkeypatch.setattr(run_directory, "check_same_data", lambda *_: None)
    monkeypatch.setattr(evaluate, "summarize", lambda *_: None)
    monkeypatch.setattr(evaluate, "format_summary", lambda _: "summary")
    monkeypatch.setattr(evaluate, "_measure_likelihood", lambda *_: likelihood)
    errors = {"escaped": "backslashreplace", "raising": "strict"}[mode]
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
    monkeypatch.setattr(sys, "stdout", stream)
    if mode == "raising":
        with pytest.raises(UnicodeEncodeError):
            evaluate.evaluate(run)
    else:
        evaluate.evaluate(run)
        stream.flush()
        assert b"test -log p(x) 90.00 \\xb1 0.50 nats" in stream.buffer.getvalue()
    assert read_record(tmp_path / EVALUATION_NAME, Evaluation).likelihood == likelihood


def test_a_name_that_is_no_text_is_written_escaped(tmp_path):
    write_atomically(tmp_path / "report.md", os.fsdecode(b"run_\xff"))
    assert (tmp_path / "report.md").read_bytes() == rb"run_\udcff"


def test_help_without_a_reader_ends_quietly():
    command = f"{sys.executable} main.py --help | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    assert result.returncode in (1, 141), result  # 1: all of it fitted into the pipe


@pytest.mark.slow
def test_training_without_a_reader_ends_quietly_and_keeps_its_epochs(tmp_path, tiny_arguments):
    process = start(tmp_path / "run", *tiny_arguments, "--config.train.num_epochs=100000")
    wait_for_line(process, "epoch 1/")
    process.stdout.close()
    assert process.wait(240) == 141
    assert process.stderr.read() == ""
    process.stderr.close()
    assert len(latest_state(tmp_path / "run")[1]) >= 2
