"""The command line in processes of its own, as a user meets it."""

import contextlib
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import warnings

import pytest
from absl import app
from absl.testing import flagsaver

from tests.support.common import ROOT
from vae_jax import __main__ as main
from vae_jax import modes
from vae_jax.runtime import files

QUICKSTART = "--config=configs/quickstart.py"


def run(*arguments, cwd=ROOT, interpreter=()):
    return subprocess.run(
        [sys.executable, *interpreter, str(ROOT / "main.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": ""},
    )


def process_error_of(*arguments):
    """The one line a mistake is answered with, by a process."""
    result = run(*arguments)
    assert result.returncode == 1, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.fixture
def error_of(monkeypatch, capsys):
    """The same in this process, where JAX runs already."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(main, "_start_jax", lambda: True)
    monkeypatch.setattr(main.interrupts, "exit_on_signal", lambda: None)
    app.define_help_flags()

    def error_of(*arguments):
        sys.modules.pop("config_config", None)  # the file of the call before
        with (
            flagsaver.flagsaver(),
            warnings.catch_warnings(),
            pytest.raises(SystemExit) as exit_,
        ):
            warnings.simplefilter("ignore")  # of how ml_collections imports a file
            main._main(main._parse_flags(["main.py", *map(str, arguments)]))
        assert exit_.value.code == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1, output.err
        return output.err

    return error_of


@pytest.mark.slow
def test_a_process_answers_a_mistake_with_one_line_and_status_one(tmp_path):
    for arguments, expected in (
        (["--config.train.num_epochz=5"], "closest match: train.num_epochs"),
        (["--config.train.batch_size=4001"], "train.batch_size is 4001, must be at most 4000"),
    ):
        message = process_error_of(QUICKSTART, f"--workdir={tmp_path / 'run'}", *arguments)
        assert message.startswith("error: ")
        assert expected in message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_help_names_the_modes_and_imports_neither_jax_nor_the_data():
    of_sample = run("--help", "--mode=sample").stdout
    assert "\n  --num: " in of_sample
    assert "--input" not in of_sample.partition("\nflags:\n")[2]  # of other modes
    result = run("--help", interpreter=("-X", "importtime"))
    for name in (*modes.MODES, "--workdir", "--config"):
        assert name in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "ml_collections" in imported
    slow = {"jax", "tensorflow_datasets", "tensorflow", "matplotlib", "orbax", "mlxtend"}
    assert not imported & slow


def test_the_entry_of_a_source_tree_is_thin():
    assert len((ROOT / "main.py").read_text().splitlines()) <= 100


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.train.num_epochz=5"], "closest match: train.num_epochs"),
        (["--config.=5"], "not a field"),
        (["--noconfig.sed"], "closest match: seed"),
        (["-noconfig.train.skip_nonfinite=1"], "train.skip_nonfinite must be bool"),
        (["--config.a\nb=5"], "a\\nb is not a field"),
        (["--config.decoder.filters=" + "-" * 5_000 + "1"], "nested too deeply"),
        (["--config.train.num_epochs=five"], "train.num_epochs must be int"),
        (["--config.decoder.filters=(1,'a')"], "decoder.filters is (1, 'a'), must be a tuple"),
        (["--config.train.learning_rate=-0.1"], "train.learning_rate is -0.1"),
        (["--config.train.batch_size=4001"], "must be at most 4000"),
        (["--config.decoder.strides=(4,10)"], "must be at most 28"),
        (["--mode=trian"], "closest match: train"),
        (["--mdoe=train"], "--mdoe"),
        (["train"], "'train'"),
        (["--num=3"], "in sample"),
        (["--input=x"], "in interpolate, encode, reconstruct"),
        (["--mode=sample", "--lock_workdir"], "in train, experiments"),
        (["--mode=report"], "--config has no meaning in --mode=report"),
        (["--mode=experiments"], "--config has no meaning in --mode=experiments"),
        (["--nocompilation_cache=1"], "does not take an argument"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, error_of, arguments, expected):
    message = error_of(QUICKSTART, f"--workdir={tmp_path / 'run'}", *arguments)
    assert message.startswith("error: ")
    assert expected in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mode=experiments", "--configs=baselin"], "closest match: baseline"),
        (["--mode=experiments", "--config.sed=1"], "closest match: seed"),
        (["--mode", "experiments", "--config.seed=-1"], "seed is -1"),
        (["--mode=report"], "complete run"),
        (["--mode=report", "--configs=baseline"], "in experiments"),
        (["--mode=report", "--config.seed=1"], "no meaning in --mode=report"),
        (["--config.seed=3"], "--config is missing"),
        (["--mode=sample"], "holds no run"),
    ],
    ids=str,
)
def test_mistakes_without_a_configuration(tmp_path, error_of, arguments, expected):
    assert expected in error_of(f"--workdir={tmp_path / 'runs'}", *arguments)
    assert not (tmp_path / "runs").exists()
    assert "--workdir is missing" in error_of(QUICKSTART)


MNIST = (QUICKSTART, "--config.data.name=mnist")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("--config", ()),
        ("--workdir", (QUICKSTART,)),
        ("--workdir", ("--mode=report",)),
        ("--workdir", ("--mode=sample",)),
        ("data.data_dir", MNIST),
        ("data.manual_dir", ("--mode=experiments",)),
    ],
)
@pytest.mark.parametrize("path", ["gs://bucket/run", "s3:/bucket", "~no_such_user/folder"])
def test_paths_that_no_folder_has_are_refused(tmp_path, error_of, name, arguments, path):
    if path.startswith("~") and name.startswith("data.") and arguments != MNIST:
        pytest.skip("read when its data are read")
    flag = name if name.startswith("--") else f"--config.{name}"
    message = error_of(f"--workdir={tmp_path / 'run'}", *arguments, f"{flag}={path}")
    assert name in message
    assert path in message
    assert not os.path.exists(ROOT / path.partition("/")[0])
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_colon_is_a_path():
    for path in ("a:b/c", "./gs:/b", "C:/runs", "runs/x://y", "lr=1e-3:2/a"):
        assert not files.is_address(path)


def test_a_user_without_a_home_folder_is_asked_for_one(tmp_path, error_of, monkeypatch, no_home):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", "~/tensorflow_datasets")  # as it is then
    message = error_of(f"--workdir={tmp_path / 'run'}", *MNIST)
    assert "data.data_dir=~/tensorflow_datasets" in message


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["--config=configs/quickstart.py", "# why", "--config.seed=-1"], "seed is -1"),
        (["--mode=experiments", "--configs=quickstart", "--config.sed=1"], "closest match: seed"),
        (["--flagfile=missing"], "No such file"),
        (["\udcff"], "decode"),
    ],
)
def test_flags_from_a_file(tmp_path, error_of, lines, expected):
    path = tmp_path / "flags"
    path.write_text("\n".join(lines), errors="surrogateescape")
    assert expected in error_of(f"--flagfile={path}", f"--workdir={tmp_path / 'run'}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        ("import wibble", "No module named 'wibble'"),
        ("x = 1", "has no attribute 'get_config'"),
        ("raise NotImplementedError", "NotImplementedError"),
        ("def get_config(): return 3", "'int' object has no attribute"),
        (
            "from configs import default\ndef get_config():\n  config = default.get_config()\n"
            "  config.train.bach_size = 3\n  return config",
            "closest match: train.batch_size",
        ),
    ],
)
def test_a_configuration_file_that_cannot_be_used(tmp_path, error_of, content, expected):
    path = tmp_path / "config.py"
    if content is not None:
        path.write_text(content)
    assert expected in error_of(f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert "closest match: baseline" in error_of("--config=baselin", f"--workdir={tmp_path}")


def run_in_a_terminal(*arguments):
    """Runs with standard error on a terminal of 100 columns; returns what it shows there."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end was closed: the process ended
        while piece := os.read(controller, 65536):
            shown += piece
    os.close(controller)
    output = process.communicate()[0]
    assert process.returncode == 0, shown
    return output, shown.decode()


@pytest.mark.slow
def test_a_run_from_start_to_samples(tmp_path, tiny_arguments, error_of):
    workdir = tmp_path / "run"
    train = (*tiny_arguments, f"--workdir={workdir}", "--config.train.num_epochs=1")
    output, shown = run_in_a_terminal(*train)
    assert "best epoch 1 of 1: validation" in output
    assert "epoch 1/1: train" not in output  # the bar takes the place of the lines
    # Epoch, images done and in all, time gone and left, speed, loss.
    line = r"epoch 1/1: +\d+%.*/140 \[\d\d:\d\d<\d\d:\d\d, .* ?images/s, loss \d+\.\d\d\]"
    assert re.search(line, shown), shown
    assert (workdir / "summary.json").exists()
    # From another folder, and without --config: the run directory knows it.
    result = run("--mode=sample", "--workdir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert (workdir / "samples.npy").exists()
    message = error_of(*train, "--config.seed=1")
    assert "holds a run with another configuration: seed is 0 there, 1 here" in message


@pytest.mark.slow
def test_a_report_of_a_folder(tmp_path, tiny_run):
    shutil.copytree(tiny_run, tmp_path / "run")
    result = run("--mode=report", f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.startswith(f"analyzing {tmp_path}/run\n")
    assert f"wrote {tmp_path}/report.html\nwrote {tmp_path}/report.md\n" in result.stdout
    assert "| training images (ceiling) |" in (tmp_path / "report.md").read_text()
    (tmp_path / "report.md").unlink()
    (tmp_path / "report.md").mkdir()
    result = run("--mode=report", f"--workdir={tmp_path}")
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*report\.md.*\n", result.stderr), result.stderr
