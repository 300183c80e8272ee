"""The user's files stay as they are, and files that modes wrote are never read as data."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support.common import error_of
from vae_jax import encode, evaluate, explore, export, report, sample
from vae_jax.datasets import image_folder
from vae_jax.evaluation.image_output import png_writer
from vae_jax.runtime.files import write_atomically
from vae_jax.runtime.output_record import OUTPUT_MARKER, check_names, record_names, written_names
from vae_jax.training.run_directory import RunDirectory


def write_pngs(folder, images, names=None):
    png_writer(folder, len(images), names)(images)


@pytest.fixture
def run(trained_run):
    return RunDirectory.open(trained_run)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def test_names_that_a_mode_wrote_are_recorded_outside_the_run_alone(copied_run, tmp_path):
    run = RunDirectory.open(copied_run)
    (tmp_path / "samples").mkdir()  # empty: nothing to lose
    for folder in (tmp_path, None, copied_run):
        sample.sample(run, folder, num=2)
    assert written_names(tmp_path) == {"samples", "samples.npy", "plots"}
    assert not (copied_run / OUTPUT_MARKER).exists()


def test_a_report_of_the_user_is_in_the_way(trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "report.md").write_text("# Results\n\nmine")
    assert f"{tmp_path / 'report.md'}: " in error_of(report.write_report, tmp_path)
    assert (tmp_path / "report.md").read_text() == "# Results\n\nmine"


def test_a_link_to_files_of_the_user_is_in_the_way(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    (tmp_path / "samples").symlink_to(tmp_path / "mine")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("samples", "broken"):
        assert f"{tmp_path / name}: " in error_of(check_names, tmp_path, [name])


def test_recorded_output_is_never_data(tmp_path):
    write_pngs(tmp_path, np.zeros((12, 4, 4, 1)))
    write_pngs(tmp_path / "samples", np.zeros((3, 4, 4, 1)))
    record_names(tmp_path, ["samples", "latents.npz"])
    assert len(image_folder.list_images(str(tmp_path)).files) == 12
    (tmp_path / "out").mkdir()
    shutil.move(tmp_path / "samples", tmp_path / "out")
    record_names(tmp_path / "out", ["samples"])
    assert "holds no image" in error_of(image_folder.list_images, str(tmp_path / "out"))
    # A folder that is named itself is the one that the user wants.
    assert len(image_folder.list_images(str(tmp_path / "out" / "samples")).files) == 3


def test_each_image_has_a_file_of_its_own(tmp_path):
    names = np.array(["a.jpg", "b.PNG", "b.png", "c"])
    write_pngs(tmp_path, np.arange(4).reshape(4, 1, 1, 1) / 255, names)
    written = {path.name: np.asarray(Image.open(path)).item() for path in tmp_path.iterdir()}
    assert written == {"a.jpg.png": 0, "b.PNG": 1, "b.png": 2, "c.png": 3}


def test_a_record_survives_a_failure(tmp_path, monkeypatch):
    record_names(tmp_path, ["b"])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        record_names(tmp_path, ["a"])
    monkeypatch.undo()
    assert written_names(tmp_path) == {"b"}
    write_atomically(tmp_path / OUTPUT_MARKER, b"\xff\n")
    assert written_names(tmp_path) == {"\ufffd"}
