"""The command line in processes of its own, as a user meets it."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import warnings

import pytest
from absl import app
from absl.testing import flagsaver

from tests.support.common import ROOT
from tests.support.processes import SMALL_DECODER
from vae_jax import __main__ as main
from vae_jax import modes
from vae_jax.runtime import files

QUICKSTART = "--config=configs/quickstart.py"
SMALL = ("--config.encoder.hidden_size=8", *SMALL_DECODER)


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


def test_a_process_answers_a_mistake_with_one_line_and_status_one(tmp_path):
    for arguments, expected in (
        (["--config.train.num_epochz=5"], "closest match: train.num_epochs"),
        (["--config.train.batch_size=4001"], "train.batch_size is 4001, must be at most 4000"),
        (["--mode=report", "--config=x"], "--config has no meaning in --mode=report"),
    ):
        message = process_error_of(QUICKSTART, f"--workdir={tmp_path / 'run'}", *arguments)
        assert message.startswith("error: ")
        assert expected in message
    assert not (tmp_path / "run").exists()


def test_help_names_the_modes_and_imports_neither_jax_nor_the_data():
    result = run("--help", interpreter=("-X", "importtime"))
    for name in (*modes.MODES, "--workdir", "--config"):
        assert name in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "ml_collections" in imported
    slow = {"jax", "tensorflow_datasets", "tensorflow", "matplotlib", "orbax", "mlxtend"}
    assert not imported & slow


def test_help_of_a_mode_lists_its_flags_too():
    result = run("--help", "--mode=sample")
    for name in ("--workdir", "--output", "--num", "--seed"):
        assert f"\n  {name}: " in result.stdout
    assert "--input" not in result.stdout.partition("\nflags:\n")[2]


def test_the_entry_of_a_source_tree_is_thin():
    assert len((ROOT / "main.py").read_text().splitlines()) <= 100


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.train.num_epochz=5"], "train.num_epochz is no field"),
        (["--config.train.num_epochz=5"], "closest match: train.num_epochs"),
        (["--config.=5"], " is no field of a configuration; closest match: "),
        (["--noconfig.sed"], "sed is no field of a configuration; closest match: seed"),
        (
            ["-noconfig.train.skip_nonfinite=1"],
            "does not take an argument; train.skip_nonfinite must",
        ),
        (["--config.a\nb=5"], "a\\nb is no field of a configuration; closest match: "),
        (["--config.decoder.filters=" + "-" * 5_000 + "1"], "is nested too deeply"),
        (["--config.train.num_epochs=five"], "train.num_epochs must be int"),
        (["--config.decoder.filters=(1,'a')"], "decoder.filters is (1, 'a'), must be a tuple of"),
        (["--config.train.learning_rate=-0.1"], "train.learning_rate is -0.1, must be finite"),
        (["--config.train.batch_size=4001"], "train.batch_size is 4001, must be at most 4000"),
        (
            ["--config.decoder.strides=(4,10)"],
            "decoder.strides is (4, 10), whose product, 40, must be at most 28",
        ),
        (["--config.data.name=minst"], "data.name is 'minst', must be one of mnist, fashion_mnist"),
        (["--mode=trian"], "--mode is 'trian', must be one of train, evaluate, sample, interp"),
        (["--mdoe=train"], "--mdoe is no flag; --help lists them, and with --mode=NAME"),
        (["train"], "'train' is not understood"),
        (["--num=3"], "--num has no meaning in this mode, but in sample"),
        (["--input=x"], "no meaning in this mode, but in interpolate, encode, reconstruct"),
        (["--mode=sample", "--lock_workdir"], "no meaning in this mode, but in train, experiments"),
        (["--configs=baseline"], "--configs has no meaning in this mode, but in experiments"),
        (["--mode=report"], "--config has no meaning in --mode=report"),
        (["--mode=experiments"], "--config has no meaning in --mode=experiments"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, error_of, arguments, expected):
    workdir = tmp_path / "run"
    message = error_of(QUICKSTART, f"--workdir={workdir}", *arguments)
    assert message.startswith("error: ")
    assert expected in message
    assert not workdir.exists()


def test_missing_flags(tmp_path, error_of):
    assert "--workdir is missing" in error_of(QUICKSTART)
    assert "--config is missing" in error_of(f"--workdir={tmp_path}")
    message = error_of(f"--workdir={tmp_path}", "--config.seed=3")
    assert "--config is missing; give a file" in message
    assert "holds no run" in error_of(f"--workdir={tmp_path}", "--mode=sample")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mode=experiments", "--configs=baselin"], "--configs is 'baselin', must be one of bas"),
        (["--mode=experiments", "--configs=default"], "--configs is 'default', must be one of bas"),
        (["--mode=experiments", "--config.sed=1"], "sed is no field of a configuration; closest"),
        (["--mode", "experiments", "--config.seed=-1"], "seed is -1, must be between 0 and"),
        (["--mode=report"], "holds no complete run"),
        (
            ["--mode=report", "--configs=baseline"],
            "--configs has no meaning in this mode, but in experiments",
        ),
        (["--mode=report", "--config.seed=1"], "--config.seed has no meaning in --mode=report"),
    ],
)
def test_mistakes_in_the_modes_of_a_folder(tmp_path, error_of, arguments, expected):
    workdir = tmp_path / "runs"
    assert expected in error_of(f"--workdir={workdir}", *arguments)
    assert not workdir.exists()


MNIST = (QUICKSTART, "--config.data.name=mnist")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("--config", ()),
        ("--workdir", (QUICKSTART,)),
        ("--workdir", ("--mode=report",)),
        ("data.data_dir", MNIST),
        ("data.manual_dir", MNIST),
    ],
)
def test_the_home_folder_of_nobody(tmp_path, monkeypatch, error_of, name, arguments):
    path = "~no_such_user/folder"
    workdir = f"--workdir={tmp_path / 'run'}"
    flag = name if name.startswith("--") else f"--config.{name}"
    message = error_of(workdir, *arguments, f"{flag}={path}")
    assert message == f"error: {name}={path}: there is no such home folder; give the whole path\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("--config", ()),
        ("--workdir", (QUICKSTART,)),
        ("--workdir", ("--mode=report",)),
        ("--workdir", ("--mode=sample",)),
        ("data.data_dir", MNIST),
        ("data.manual_dir", MNIST),
        ("data.manual_dir", ("--mode=experiments",)),
        ("data.manual_dir", ("--mode=report",)),
    ],
)
@pytest.mark.parametrize("path", ["gs://bucket/run", "s3:/bucket", "file:///run", "hdfs://a:1/b"])
def test_addresses_are_refused_at_once(tmp_path, error_of, name, arguments, path):
    flag = name if name.startswith("--") else f"--config.{name}"
    message = error_of(f"--workdir={tmp_path / 'run'}", *arguments, f"{flag}={path}")
    assert name in message
    assert path in message
    assert "of this machine" in message
    assert not os.path.exists(ROOT / path.partition("/")[0])


def test_a_folder_with_a_colon_is_no_address():
    for path in ("a:b/c", "./gs:/b", "C:/runs", "runs/x://y", "lr=1e-3:2/a"):
        assert not files.is_address(path)


def test_a_user_without_a_home_folder_names_one(tmp_path, error_of, monkeypatch, no_home):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", "~/tensorflow_datasets")  # as it is then
    message = error_of(f"--workdir={tmp_path / 'run'}", *MNIST)
    assert "data.data_dir=~/tensorflow_datasets: there is no such home folder" in message


@pytest.mark.parametrize(
    ("lines", "arguments", "expected"),
    [
        (["--config=configs/quickstart.py", "--config.seed=-1"], [], "seed is -1, must be"),
        (["--config configs/quickstart.py", "--config.seed -1"], [], "seed is -1, must be"),
        (["--config.seed=3", "# why"], [QUICKSTART, "--config.seed=-1"], "seed is -1, must be"),
        (["--config.decoder.strides (1, 0)"], [QUICKSTART], "decoder.strides is (1, 0), must"),
        (["--mode=experiments", "--configs=quickstart", "--config.seed=-2"], [], "seed is -2"),
        (["--config.sed=1"], ["--mode=experiments"], "closest match: seed"),
        (["--flagfile=missing"], [QUICKSTART], "Unable to open flagfile: [Errno 2] No such file"),
        (["\udcff"], [QUICKSTART], "the file that --flagfile names is no text"),
        (["--nocompilation_cache=1"], [QUICKSTART], "does not take an argument"),
    ],
)
def test_flags_from_a_file(tmp_path, error_of, lines, arguments, expected):
    path = tmp_path / "flags"
    path.write_text("\n".join(lines), errors="surrogateescape")
    workdir = tmp_path / "run"
    assert expected in error_of(f"--flagfile={path}", f"--workdir={workdir}", *arguments)
    assert not workdir.exists()


def test_a_missing_file_of_flags(error_of):
    message = error_of(QUICKSTART, "--flagfile=missing")
    assert message.startswith("error: Unable to open flagfile: [Errno 2] No such file")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        ("import wibble", "No module named 'wibble'"),
        ("x = 1", "has no attribute 'get_config'"),
        ("raise NotImplementedError", "cannot be used: NotImplementedError"),
        ("def get_config(): return 3", "'int' object has no attribute"),
        (
            "from configs import default\ndef get_config():\n  config = default.get_config()\n"
            "  config.train.bach_size = 3\n  return config",
            "train.bach_size is no field of a configuration; closest match: train.batch_size",
        ),
    ],
)
def test_a_configuration_file_that_cannot_be_used(tmp_path, error_of, content, expected):
    path = tmp_path / "config.py"
    if content is not None:
        path.write_text(content)
    assert expected in error_of(f"--config={path}", f"--workdir={tmp_path / 'run'}")


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
def test_a_run_from_start_to_samples(tmp_path):
    workdir = tmp_path / "run"
    train = (QUICKSTART, *SMALL, f"--workdir={workdir}", "--config.train.num_epochs=1")
    output, shown = run_in_a_terminal(*train)
    assert "best epoch 1 of 1: validation" in output
    assert "epoch 1/1: train" not in output  # the bar takes the place of the lines
    # Epoch, images done and in all, time gone and left, speed, loss.
    line = r"epoch 1/1: +\d+%.*/4\.00k \[\d\d:\d\d<\d\d:\d\d, .* ?images/s, loss \d+\.\d\d\]"
    assert re.search(line, shown), shown
    assert (workdir / "summary.json").exists()
    # From another folder, and without --config: the run directory knows it.
    result = run("--mode=sample", "--workdir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert (workdir / "samples.npy").exists()
    result = run("--mode=report", f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout == (
        f"analyzing {workdir}\nwrote {tmp_path / 'report.html'}\nwrote {tmp_path / 'report.md'}\n"
    )
    assert "| training images (ceiling) |" in (tmp_path / "report.md").read_text()
    (tmp_path / "report.md").unlink()
    (tmp_path / "report.md").mkdir()
    result = run("--mode=report", f"--workdir={tmp_path}")
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*report\.md.*: mend this, .*\n", result.stderr), result.stderr
    message = process_error_of(*train, "--config.seed=1")
    assert "holds a run with another configuration: seed is 0 there, 1 here" in message
