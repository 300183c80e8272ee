"""The command line in processes of its own, as a user meets it."""

import re
import sys
import warnings

import pytest
from absl import app
from absl.testing import flagsaver

from tests.support.common import ROOT
from tests.support.processes import finish, start, train
from vae_jax import __main__ as main
from vae_jax import modes

QUICKSTART = "--config=configs/quickstart.py"


@pytest.fixture
def error_of(monkeypatch, capsys):
    """The one line that answers a mistake, in this process, where JAX runs already."""
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
    process = start(tmp_path / "run", QUICKSTART, "--config.train.batch_size=4001")
    status, output, errors = finish(process)
    assert (status, output) == (1, "")
    line = r"error: train\.batch_size is 4001, must be at most 4000.*\n"
    assert re.fullmatch(line, errors), errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_help_names_the_modes_and_imports_neither_jax_nor_the_data(tmp_path):
    _, of_sample, _ = finish(start(tmp_path, "--help", "--mode=sample"))
    assert "\n  --num: " in of_sample
    assert "--input" not in of_sample.partition("\nflags:\n")[2]  # of other modes
    _, output, errors = finish(start(tmp_path, "--help", PYTHONPROFILEIMPORTTIME="1"))
    for name in (*modes.MODES, "--workdir", "--config"):
        assert name in output
    imported = {line.rpartition("|")[2].strip() for line in errors.splitlines()}
    assert "ml_collections" in imported
    slow = {"jax", "tensorflow_datasets", "tensorflow", "matplotlib", "orbax", "mlxtend"}
    assert not imported & slow


BUCKET, NO_USER = "gs://bucket/run", "~no_such_user/folder"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([QUICKSTART, "--config.=5"], "not a field"),
        ([QUICKSTART, "--noconfig.sed"], "closest match: seed"),
        ([QUICKSTART, "--config.a\nb=5"], "a\\nb is not a field"),
        ([QUICKSTART, "--config.decoder.filters=" + "-" * 5_000 + "1"], "nested too deeply"),
        ([QUICKSTART, "--config.train.num_epochs=five"], "config.train.num_epochs=five"),
        ([QUICKSTART, "--config.decoder.filters=(1,'a')"], "is (1, 'a'), must be a tuple"),
        ([QUICKSTART, "--config.train.batch_size=4001"], "must be at most 4000"),
        ([QUICKSTART, "--config.decoder.strides=(4,10)"], "must be at most 28"),
        ([QUICKSTART, "--mode=trian"], "closest match: train"),
        ([QUICKSTART, "--mdoe=train"], "mdoe"),
        ([QUICKSTART, "train"], "'train'"),
        ([QUICKSTART, "--num=3"], "'num'"),
        ([QUICKSTART, "--mode=report"], "--config has no meaning in --mode=report"),
        ([QUICKSTART, "--workdir="], "--workdir is missing"),
        ([QUICKSTART, f"--workdir={BUCKET}"], BUCKET),
        ([QUICKSTART, f"--workdir={NO_USER}"], NO_USER),
        ([f"--config={BUCKET}"], BUCKET),
        ([f"--config={NO_USER}"], NO_USER),
        (["--config=baselin"], "closest match: baseline"),
        (["--config=nowhere.py"], "No such file"),
        (["--config.seed=3"], "--config is missing"),
        (["--mode=experiments", "--configs=baselin"], "closest match: baseline"),
        (["--mode", "experiments", "--config.seed=-1"], "seed is -1"),
        (["--mode=report"], "complete run"),
        (["--mode=report", "--config.seed=1"], "no meaning in --mode=report"),
        (["--mode=sample"], "holds no run"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, error_of, arguments, expected):
    message = error_of(f"--workdir={tmp_path / 'run'}", *arguments)
    assert message.startswith("error: ")
    assert expected in message
    assert not (tmp_path / "run").exists()
    assert not (ROOT / "gs:").exists() and not (ROOT / "~no_such_user").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x = 1", "has no attribute 'get_config'"),
        ("raise NotImplementedError", "NotImplementedError"),
        (
            "from configs import default\ndef get_config():\n  config = default.get_config()\n"
            "  config.train.bach_size = 3\n  return config",
            "closest match: train.batch_size",
        ),
    ],
)
def test_a_configuration_file_that_cannot_be_used(tmp_path, error_of, content, expected):
    path = tmp_path / "config.py"
    path.write_text(content)
    assert expected in error_of(f"--config={path}", f"--workdir={tmp_path / 'run'}")


@pytest.mark.slow
def test_a_run_from_start_to_samples(tmp_path, tiny_arguments, error_of):
    workdir = tmp_path / "run"
    output = train(workdir, *tiny_arguments, "--config.train.num_epochs=1")
    assert "epoch 1/1: train" in output and "best epoch 1 of 1: validation" in output
    assert (workdir / "summary.json").exists()
    # Without --config: the run directory knows it.
    assert finish(start(workdir, "--mode=sample"))[::2] == (0, "")
    assert (workdir / "samples.npy").exists()
    message = error_of(*tiny_arguments, f"--workdir={workdir}", "--config.seed=1")
    assert "holds a run with another configuration: seed is 0 there, 1 here" in message
