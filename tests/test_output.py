"""Files and lines that modes write: nothing of the user's is lost, nor any result."""

import io
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.common import contents, error_of
from tests.support.processes import latest_state, start, wait_for_line
from vae_jax import encode, evaluate, explore, export, report, sample
from vae_jax.datasets import image_folder
from vae_jax.evaluation.image_output import png_writer
from vae_jax.evaluation.measures import EVALUATION_NAME, Evaluation, LikelihoodMeasures
from vae_jax.runtime.files import read_record, write_atomically
from vae_jax.runtime.output_record import OUTPUT_MARKER, record_names, written_names
from vae_jax.training.run_directory import RunDirectory


def write_pngs(folder, images, names=None):
    png_writer(folder, len(images), names)(images)


@pytest.fixture
def run(tiny_run):
    return RunDirectory.open(tiny_run)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (sample.sample, "samples/7.png"),
        (sample.sample, "plots/mine.png"),
        (explore.explore, "explorer.html"),
        (export.export, "export/model.onnx"),
        (encode.encode, "latents.npz"),
        (evaluate.evaluate, "summary.json"),
    ],
)
def test_files_of_the_user_are_in_the_way(run, tmp_path, mode, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    error = error_of(mode, run, output=tmp_path)
    assert error.startswith(f"{tmp_path / name.partition('/')[0]}: ")
    assert str(tmp_path / OUTPUT_MARKER) in error
    assert contents(tmp_path) == before


def test_names_that_a_mode_wrote_are_recorded_outside_the_run_alone(tiny_run, tmp_path):
    run = RunDirectory.open(shutil.copytree(tiny_run, tmp_path / "run"))
    (tmp_path / "samples").mkdir()  # empty: nothing to lose
    for folder in (tmp_path, None, run.path):
        sample.sample(run, folder, num=2)
    assert written_names(tmp_path) == {"samples", "samples.npy", "plots"}
    assert not (run.path / OUTPUT_MARKER).exists()
    # A report is written beside runs, and files of the user are in its way too.
    (tmp_path / "report.md").write_text("mine")
    assert f"{tmp_path / 'report.md'}: " in error_of(report.write_report, tmp_path)
    assert (tmp_path / "report.md").read_text() == "mine"


def test_recorded_output_is_never_data(tmp_path):
    write_pngs(tmp_path, np.zeros((12, 4, 4, 1)))
    write_pngs(tmp_path / "samples", np.zeros((3, 4, 4, 1)))
    record_names(tmp_path, ["samples", "latents.npz"])
    folder = image_folder.list_images(str(tmp_path))
    assert len(folder.files) == 12
    # A folder that is named itself is the one that the user wants.
    assert len(image_folder.list_images(str(tmp_path / "samples")).files) == 3


def test_each_image_has_a_file_of_its_own(tmp_path):
    names = np.array(["a.jpg", "b.PNG", "b.png", "c"])
    write_pngs(tmp_path, np.arange(4).reshape(4, 1, 1, 1) / 255, names)
    written = {path.name: np.asarray(Image.open(path)).item() for path in tmp_path.iterdir()}
    assert written == {"a.jpg.png": 0, "b.PNG": 1, "b.png": 2, "c.png": 3}
    for names in (["a", "a"], ["a.jpg", "a.jpg.png"]):
        error = error_of(write_pngs, tmp_path / "new", np.zeros((2, 1, 1, 1)), np.array(names))
        assert "two images" in error
    assert not (tmp_path / "new").exists()


def test_results_are_written_before_they_are_printed(tmp_path, monkeypatch, tiny_run):
    likelihood = LikelihoodMeasures(90.0, 0.5, 91.0, 1.0, 2.0, 500, 5, 7)
    monkeypatch.setattr(evaluate, "has_likelihood", lambda *_: True)
    monkeypatch.setattr(evaluate, "_measure_likelihood", lambda *_: likelihood)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(UnicodeEncodeError):
        evaluate.evaluate(RunDirectory.open(tiny_run), tmp_path)
    assert read_record(tmp_path / EVALUATION_NAME, Evaluation).likelihood == likelihood


def test_a_name_that_is_no_text_is_written_escaped(tmp_path):
    write_atomically(tmp_path / "report.md", os.fsdecode(b"run_\xff"))
    assert (tmp_path / "report.md").read_bytes() == rb"run_\udcff"


@pytest.mark.slow
def test_training_without_a_reader_ends_quietly_and_keeps_its_epochs(tmp_path, tiny_arguments):
    process = start(tmp_path / "run", *tiny_arguments, "--config.train.num_epochs=100000")
    wait_for_line(process, "epoch 1/")
    process.stdout.close()
    assert process.wait(240) == 141
    assert process.stderr.read() == ""
    process.stderr.close()
    assert len(latest_state(tmp_path / "run")[1]) >= 2
