"""Output that cannot carry what is told, or that nobody reads: nothing is lost by it."""

import contextlib
import io
import os
import subprocess
import sys

import pytest

from tests.support.common import ROOT
from tests.support.processes import latest_state, start, wait_for_line
from vae_jax import evaluate
from vae_jax.evaluation.measures import EVALUATION_NAME, Evaluation, LikelihoodMeasures
from vae_jax.runtime.files import read_record, write_atomically
from vae_jax.training.run_directory import RunDirectory


def test_results_are_written_before_they_are_printed(tmp_path, monkeypatch, tiny_run):
    likelihood = LikelihoodMeasures(90.0, 0.5, 91.0, 1.0, 2.0, 500, 5, 7)
    monkeypatch.setattr(evaluate, "has_likelihood", lambda *_: True)
    monkeypatch.setattr(evaluate, "_measure_likelihood", lambda *_: (likelihood, None))
    for errors in ("strict", "backslashreplace"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
        monkeypatch.setattr(sys, "stdout", stream)
        with contextlib.suppress(UnicodeEncodeError):
            evaluate.evaluate(RunDirectory.open(tiny_run), tmp_path / errors)
        written = read_record(tmp_path / errors / EVALUATION_NAME, Evaluation)
        assert written.likelihood == likelihood
        stream.flush()
    assert b"test -log p(x) 90.00 \\xb1 0.50 nats" in stream.buffer.getvalue()


def test_a_name_that_is_no_text_is_written_escaped(tmp_path):
    write_atomically(tmp_path / "report.md", os.fsdecode(b"run_\xff"))
    assert (tmp_path / "report.md").read_bytes() == rb"run_\udcff"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_an_output_on_a_full_disk_is_reported():
    code = "from vae_jax.runtime import output\nwith output.quiet_without_reader():\n    print()"
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 1
    assert result.stderr.startswith("error: standard output: No space left on device")


@pytest.mark.slow
def test_training_without_a_reader_ends_quietly_and_keeps_its_epochs(tmp_path, tiny_arguments):
    process = start(tmp_path / "run", *tiny_arguments, "--config.train.num_epochs=100000")
    wait_for_line(process, "epoch 1/")
    process.stdout.close()
    assert process.wait(240) == 141
    assert process.stderr.read() == ""
    process.stderr.close()
    assert len(latest_state(tmp_path / "run")[1]) >= 2
