"""The modes that use a trained model on a user's images, and write where the user wants."""

import shutil

import numpy as np
import pytest
from PIL import Image

import vae_jax
from tests.support.common import contents
from vae_jax import datasets, encode, evaluate, interpolate, reconstruct, sample
from vae_jax.runtime.errors import UserError
from vae_jax.training.run_directory import RunDirectory


@pytest.fixture(scope="module")
def run(trained_run):
    return RunDirectory.open(trained_run)


@pytest.fixture(scope="module")
def vae(trained_run):
    return vae_jax.load_run(trained_run)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("mnist_5k").test.images


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, digits):
    """A folder of four digits in two classes, one larger than the others."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(4):
        path = folder / "ab"[index % 2] / f"digit {index}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(digits[index, ..., 0])
        (image.resize((56, 56)) if index == 3 else image).save(path)
    return folder


def test_encode_names_every_image_of_the_input(run, vae, pictures, digits, tmp_path, capsys):
    encode.encode(run, tmp_path, input=pictures)
    assert f"{pictures}: 4 images" in capsys.readouterr().out
    latents = np.load(tmp_path / "latents.npz")
    names = ["a/digit 0.png", "a/digit 2.png", "b/digit 1.png", "b/digit 3.png"]
    assert latents["names"].tolist() == names
    assert latents["class_names"][latents["labels"]].tolist() == ["a", "a", "b", "b"]
    expected = vae.encode(digits[[0, 2, 1]])
    for name, array in zip(("mean", "log_var"), expected, strict=True):
        np.testing.assert_allclose(latents[name][:3], array, rtol=1e-5, atol=1e-5)


def test_encode_takes_the_splits_of_the_run_or_of_the_input(run, tmp_path):
    encode.encode(run, tmp_path)
    latents = np.load(tmp_path / "latents.npz")
    for name, size in {"train": 4000, "validation": 500, "test": 500}.items():
        assert latents[f"{name}_mean"].shape == latents[f"{name}_log_var"].shape == (size, 8)
        assert len(latents[f"{name}_labels"]) == size
    images = datasets.load("mnist_5k").test.images[..., 0]
    splits = {"x_train": images[:3], "y_train": [3, 1, 1], "x_test": images[3:5], "y_test": [1, 3]}
    np.savez(tmp_path / "in.npz", **splits)
    encode.encode(run, tmp_path / "out", input=tmp_path / "in.npz")
    other = np.load(tmp_path / "out" / "latents.npz")
    assert other["class_names"][other["train_labels"]].tolist() == ["3", "1", "1"]
    assert other["class_names"][other["test_labels"]].tolist() == ["1", "3"]
    np.testing.assert_allclose(other["test_mean"], latents["test_mean"][3:5], rtol=1e-5, atol=1e-5)


def test_reconstruct_puts_an_image_beside_its_reconstruction(run, vae, pictures, digits, tmp_path):
    reconstruct.reconstruct(run, tmp_path, input=pictures)
    images = np.load(tmp_path / "reconstructions.npy")
    names = np.load(tmp_path / "reconstructions_names.npy").tolist()
    assert images.shape == (4, 28, 28, 1)
    for name, image in zip(names[:3], images, strict=False):
        pair = np.asarray(Image.open(tmp_path / "reconstructions" / name))
        np.testing.assert_array_equal(pair[:, :28], np.asarray(Image.open(pictures / name)))
        np.testing.assert_array_equal(pair[:, 28:], np.rint(255 * image[..., 0]))
    np.testing.assert_allclose(images[1], vae.reconstruct(digits[2]), atol=1e-5)
    np.save(tmp_path / "in.npy", digits[:3])
    reconstruct.reconstruct(run, tmp_path, input=tmp_path / "in.npy")
    assert not (tmp_path / "reconstructions_names.npy").exists()  # they would be of other images


def test_sample_replaces_earlier_samples(run, vae, tmp_path):
    for number in (12, 7):
        sample.sample(run, tmp_path, num=number, seed=1)
        images = np.load(tmp_path / "samples.npy")
        np.testing.assert_array_equal(images, vae.sample(number, seed=1))
        files = sorted((tmp_path / "samples").iterdir())
        assert len(files) == number
        last = np.asarray(Image.open(files[-1]))
        np.testing.assert_array_equal(last, np.rint(255 * images[-1, ..., 0]))
    assert (tmp_path / "plots" / "samples.png").exists()


def test_interpolate_takes_images_of_the_user(run, pictures, tmp_path):
    interpolate.interpolate(run, tmp_path / "out", input=pictures)
    assert contents(tmp_path / "out").keys() == {".vae_jax_output", "plots/interpolation.png"}
    (tmp_path / "one").mkdir()
    shutil.copy(pictures / "a" / "digit 0.png", tmp_path / "one")
    for name, expected in (("one", "holds one image"), ("nowhere", "cannot be read")):
        with pytest.raises(UserError, match=f"--input={tmp_path / name}: {expected}"):
            interpolate.interpolate(run, tmp_path / "out", input=tmp_path / name)


@pytest.mark.slow
def test_a_run_directory_is_not_written_to_if_another_folder_is_given(copied_run, tmp_path):
    before = contents(copied_run)
    evaluate.evaluate(RunDirectory.open(copied_run), tmp_path / "out")
    assert contents(copied_run) == before
    assert {"evaluation.json", "summary.json"} <= contents(tmp_path / "out").keys()
