"""Real processes, and comparisons of the runs that they leave."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.support.common import ROOT
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.runtime.files import read_json
from vae_jax.training import steps
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.metrics import read_rows
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import train_settings

# Variables of every process beside those of this one: it has one device, and adds XLA's flags.
ENVIRONMENT = {"PYTHONPATH": "", "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"}


def run_python(
    code: str, *arguments: object, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess:
    """Runs Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
    )


def start(workdir: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """Starts `main.py` on a run directory."""
    return subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "main.py"), f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_line(process: subprocess.Popen, beginning: str) -> None:
    """Reads standard output until a line begins so."""
    assert any(line.startswith(beginning) for line in process.stdout), process.stderr.read()


def finish(process: subprocess.Popen, timeout: float = 240.0) -> tuple[int, str, str]:
    """Waits for a process; returns its status, standard output and standard error."""
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, output, errors


def train(workdir: Path, *arguments: str, **environment: str) -> str:
    """Trains to the end; returns standard output."""
    status, output, errors = finish(start(workdir, *arguments, **environment))
    assert status == 0, errors
    return output


def rows_without_timing(workdir: Path) -> list[dict[str, float]]:
    """The columns of a `metrics.csv` that the same seed repeats."""
    rows = read_rows(workdir / "metrics.csv")
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def latest_state(workdir: Path) -> Any:
    """The newest checkpoint's state and progress, as NumPy arrays and plain values."""
    run = RunDirectory.open(workdir)
    like = steps.abstract_state(train_settings(run.config, run.spec, steps_per_epoch=1))
    restored = Checkpoints(workdir).restore_latest(like)
    assert restored
    state, progress = restored
    rows = [
        [{name: row[name] for name in row if name != "images_per_second"} for row in epoch]
        for epoch in progress.rows
    ]
    return state.replace(root_key=np.asarray(jax.random.key_data(state.root_key))), rows


def assert_same_training(workdir: Path, expected: Path) -> None:
    """Asserts that two runs were trained bit for bit alike: states, rows, best epoch."""
    assert rows_without_timing(workdir) == rows_without_timing(expected)
    (state, rows), (expected_state, expected_rows) = map(latest_state, (workdir, expected))
    assert rows == expected_rows
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)
    assert not [path for path in workdir.rglob("*") if "partial" in path.name]


def assert_same_run(workdir: Path, expected: Path) -> None:
    """Asserts that two complete runs are bit for bit alike, summaries and plots too."""
    assert_same_training(workdir, expected)
    summaries = [read_json(folder / "summary.json") for folder in (workdir, expected)]
    for summary in summaries:
        del summary["training_seconds"]
    assert summaries[0] == summaries[1]
    best, expected_best = (restore_best(RunDirectory.open(path)) for path in (workdir, expected))
    for replica, expected_replica in zip(best.replicas, expected_best.replicas, strict=True):
        assert replica.step == expected_replica.step
        jax.tree.map(np.testing.assert_array_equal, replica.params, expected_replica.params)
    samples = [(folder / "plots" / "samples.png").read_bytes() for folder in (workdir, expected)]
    assert samples[0] == samples[1]
