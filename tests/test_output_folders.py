"""Files that are not ours stay as they are, and what modes write is never read as data."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support.common import error_of
from vae_jax import (
    datasets,
    encode,
    evaluate,
    explore,
    export,
    interpolate,
    reconstruct,
    report,
    sample,
)
from vae_jax.datasets import image_folder
from vae_jax.evaluation.input_images import write_pngs
from vae_jax.runtime.files import write_atomically
from vae_jax.runtime.output_record import OUTPUT_MARKER, check_names, record_names, written_names
from vae_jax.training.run_directory import RunDirectory


@pytest.fixture
def run(trained_run):
    return RunDirectory.open(trained_run)


@pytest.fixture
def pictures(tmp_path):
    """Twelve digits, named by numbers without leading zeros."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(datasets.load("mnist_5k").test.images[:12, ..., 0]):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (sample.sample, "samples/7.png"),
        (sample.sample, "samples.npy"),
        (sample.sample, "plots/mine.png"),
        (explore.explore, "explorer.html"),
        (export.export, "export/model.onnx"),
        (encode.encode, "latents.npz"),
        (evaluate.evaluate, "summary.json"),
        (interpolate.interpolate, "plots/interpolation.png"),
    ],
)
def test_files_of_the_user_are_in_the_way(run, tmp_path, mode, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    error = error_of(mode, run, output=tmp_path)
    top = name.partition("/")[0]
    assert error.startswith(f"{tmp_path / top}: is in the way: {tmp_path / OUTPUT_MARKER} does not")
    assert contents(tmp_path) == before


def test_what_a_mode_wrote_is_replaced_and_other_files_stay(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "samples").mkdir()  # empty: nothing to lose
    for number in (12, 3):
        sample.sample(run, tmp_path, num=number)
        assert len([*(tmp_path / "samples").iterdir()]) == number
    assert written_names(tmp_path) == {"samples", "samples.npy", "plots"}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "latents.npz").write_text("mine")
    assert "latents.npz: is in the way" in error_of(encode.encode, run, output=tmp_path)


def test_the_run_directory_is_written_to_without_a_record(copied_run):
    sample.sample(RunDirectory.open(copied_run), num=2)
    sample.sample(RunDirectory.open(copied_run), copied_run, num=2)
    assert not (copied_run / OUTPUT_MARKER).exists()


def test_a_report_of_the_user_is_in_the_way(trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "report.md").write_text("# Results\n\nmine")
    assert "report.md: is in the way" in error_of(report.write_report, tmp_path)
    assert (tmp_path / "report.md").read_text() == "# Results\n\nmine"
    # One of an earlier version, which kept no record.
    (tmp_path / "report.md").write_text("# Results\n\nLosses are in nats per image, over every")
    check_names(tmp_path, ["report.html", "report.md"], report._is_report)


def test_a_link_to_files_of_the_user_is_in_the_way(pictures, tmp_path):
    (tmp_path / "samples").symlink_to(pictures)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("samples", "broken"):
        assert "is in the way" in error_of(check_names, tmp_path, [name])


def test_recorded_output_is_never_data(pictures, tmp_path, capfd):
    write_pngs(pictures / "samples", np.zeros((3, 4, 4, 1)))
    record_names(pictures, ["samples", "latents.npz"])
    folder = image_folder.list_images(str(pictures))
    assert len(folder.files) == 12
    assert folder.outputs == (str(pictures / "samples"),)
    (tmp_path / "out").mkdir()
    shutil.move(pictures / "samples", tmp_path / "out")
    record_names(tmp_path / "out", ["samples"])
    assert "is a run's output" in error_of(image_folder.list_images, str(tmp_path / "out"))
    # A folder that is named itself is what the user wants.
    assert len(image_folder.list_images(str(tmp_path / "out" / "samples")).files) == 3


@pytest.mark.parametrize("place", [".", "out", ".."])
@pytest.mark.parametrize("mode", [reconstruct.reconstruct, encode.encode, interpolate.interpolate])
def test_input_and_output_are_apart(run, pictures, place, mode):
    before = contents(pictures.parent)
    error = error_of(mode, run, pictures, pictures / place)
    assert error.startswith(f"--output={pictures / place}: overlaps --input={pictures}, so that")
    assert contents(pictures.parent) == before


def test_reconstructions_have_their_names_beside_them(run, pictures, tmp_path):
    out = tmp_path / "out"
    reconstruct.reconstruct(run, pictures, out)
    names = np.load(out / "reconstructions_names.npy")
    images = np.load(out / "reconstructions.npy")
    assert names.tolist() == sorted(f"{index}.png" for index in range(12))
    for name, image in zip(names, images, strict=True):
        pair = np.asarray(Image.open(out / "reconstructions" / name))
        np.testing.assert_array_equal(pair[:, 28:], np.rint(255 * image[..., 0]))
        np.testing.assert_array_equal(pair[:, :28], np.asarray(Image.open(pictures / name)))
    np.save(tmp_path / "in.npy", datasets.load("mnist_5k").test.images[:3])
    reconstruct.reconstruct(run, tmp_path / "in.npy", out)
    assert not (out / "reconstructions_names.npy").exists()  # they would be of other images


def test_each_image_has_a_file_of_its_own(tmp_path):
    names = np.array(["a.jpg", "a.jpg.png", "b.PNG", "b.png", "c", "c.png.png", "c.png"])
    write_pngs(tmp_path, np.arange(7).reshape(7, 1, 1, 1) / 255, names)
    written = {
        str(path.relative_to(tmp_path)): np.asarray(Image.open(path)).item()
        for path in tmp_path.iterdir()
    }
    assert written == {
        **{"a.jpg.png.png": 0, "a.jpg.png": 1, "b.PNG": 2, "b.png": 3},
        **{"c.png.png.png": 4, "c.png.png": 5, "c.png": 6},
    }
    error = error_of(write_pngs, tmp_path / "new", np.zeros((2, 1, 1, 1)), np.array(["a", "a"]))
    assert error == "two images are named 'a', which would be one file; rename one"


def test_a_record_survives_a_failure(tmp_path, monkeypatch):
    record_names(tmp_path, ["b"])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        record_names(tmp_path, ["a"])
    monkeypatch.undo()
    assert written_names(tmp_path) == {"b"}
    write_atomically(tmp_path / OUTPUT_MARKER, b"\xff\n")
    assert written_names(tmp_path) == {"\ufffd"}
