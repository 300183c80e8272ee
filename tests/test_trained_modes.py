"""The modes that use a trained model: on a user's images, writing where they are told to."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

import vae_jax
from vae_jax import datasets, encode, evaluate, interpolate, reconstruct, sample
from vae_jax.runtime.errors import UserError
from vae_jax.training.run_directory import RunDirectory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of four digits in two classes, one larger than the others."""
    folder = tmp_path_factory.mktemp("pictures")
    test = datasets.load("mnist_5k").test
    for index in range(4):
        path = folder / "ab"[index % 2] / f"digit {index}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(test.images[index, ..., 0])
        (image.resize((56, 56)) if index == 3 else image).save(path)
    return folder


def files_below(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_encode_names_every_image_of_the_input(trained_run, pictures, tmp_path, capsys):
    encode.encode(RunDirectory.open(trained_run), input=pictures, output=tmp_path)
    output = capsys.readouterr()
    assert f"{pictures}: 4 images; those of another size are brought to 28x28x1" in output.out
    assert output.err == f"--input={pictures}: the run does not know the class 'a' and 1 others\n"
    latents = np.load(tmp_path / "latents.npz")
    assert latents["names"].tolist() == [
        *("a/digit 0.png", "a/digit 2.png", "b/digit 1.png", "b/digit 3.png")
    ]
    # The run's own classes come first.
    assert latents["class_names"].tolist() == [*"0123456789", "a", "b"]
    assert latents["class_names"][latents["labels"]].tolist() == ["a", "a", "b", "b"]
    expected = vae_jax.load_run(trained_run).encode(
        datasets.load("mnist_5k").test.images[[0, 2, 1]]
    )
    for name, array in zip(("mean", "log_var"), expected, strict=True):
        np.testing.assert_allclose(latents[name][:3], array, rtol=1e-5, atol=1e-5)


def test_encode_takes_the_splits_of_the_run_or_of_the_input(trained_run, tmp_path, capsys):
    encode.encode(RunDirectory.open(trained_run), output=tmp_path)
    latents = np.load(tmp_path / "latents.npz")
    sizes = {"train": 4000, "validation": 500, "test": 500}
    for name, size in sizes.items():
        assert latents[f"{name}_mean"].shape == latents[f"{name}_log_var"].shape == (size, 8)
        assert len(latents[f"{name}_labels"]) == size
    images = datasets.load("mnist_5k").test.images[..., 0]
    np.savez(
        tmp_path / "in.npz",
        x_train=images[:3],
        y_train=[3, 1, 1],
        x_test=images[3:5],
        y_test=[1, 3],
    )
    encode.encode(RunDirectory.open(trained_run), tmp_path / "in.npz", tmp_path / "out")
    assert "3 images in the split 'train', 2 images in the split 'test'" in capsys.readouterr().out
    other = np.load(tmp_path / "out" / "latents.npz")
    assert other["class_names"].tolist() == [*"0123456789"]
    assert other["train_labels"].tolist() == [3, 1, 1]  # numbered as those of the run
    assert other["test_labels"].tolist() == [1, 3]
    np.testing.assert_allclose(other["test_mean"], latents["test_mean"][3:5], rtol=1e-5, atol=1e-5)


def test_reconstruct_puts_an_image_beside_what_the_model_makes_of_it(
    trained_run, pictures, tmp_path
):
    reconstruct.reconstruct(RunDirectory.open(trained_run), pictures, tmp_path)
    images = np.load(tmp_path / "reconstructions.npy")
    assert images.shape == (4, 28, 28, 1)
    pair = np.asarray(Image.open(tmp_path / "reconstructions" / "a" / "digit 2.png"))
    original = datasets.load("mnist_5k").test.images[2, ..., 0]
    np.testing.assert_array_equal(pair[:, :28], original)
    np.testing.assert_array_equal(pair[:, 28:], np.rint(255 * images[1, ..., 0]))
    expected = vae_jax.load_run(trained_run).reconstruct(original)
    np.testing.assert_allclose(images[1], expected, atol=1e-5)


def test_sample_draws_as_many_as_are_asked_for(copied_run, tmp_path):
    for number in (12, 7):
        sample.sample(RunDirectory.open(copied_run), tmp_path, num=number, seed=1)
        images = np.load(tmp_path / "samples.npy")
        np.testing.assert_array_equal(images, vae_jax.load_run(copied_run).sample(number, seed=1))
        files = sorted((tmp_path / "samples").iterdir())
        assert len(files) == number  # none is left of before
        last = np.asarray(Image.open(files[-1]))
        np.testing.assert_array_equal(last, np.rint(255 * images[-1, ..., 0]))
    assert (tmp_path / "plots" / "samples.png").exists()


def test_interpolate_takes_images_of_the_user(trained_run, pictures, tmp_path):
    interpolate.interpolate(RunDirectory.open(trained_run), pictures, tmp_path / "out")
    assert files_below(tmp_path / "out").keys() == {".vae_jax_output", "plots/interpolation.png"}
    one = tmp_path / "one"
    shutil.copytree(pictures / "a", one)
    (one / "digit 2.png").unlink()
    with pytest.raises(UserError, match=f"--input={one}: holds one image, must hold at least two"):
        interpolate.interpolate(RunDirectory.open(trained_run), one, tmp_path / "out")
    with pytest.raises(UserError, match=r"--input=.*/nowhere: cannot be read"):
        interpolate.interpolate(
            RunDirectory.open(trained_run), tmp_path / "nowhere", tmp_path / "out"
        )


@pytest.mark.parametrize("mode", [encode.encode, reconstruct.reconstruct])
def test_images_of_the_other_polarity_are_reported(trained_run, tmp_path, capsys, mode):
    images, run = datasets.load("mnist_5k").test.images[:20], RunDirectory.open(trained_run)
    np.save(tmp_path / "dark_on_light.npy", 255 - images)
    mode(run, tmp_path / "dark_on_light.npy", tmp_path / "out")
    error = capsys.readouterr().err
    vae = vae_jax.load_run(trained_run)
    errors = [np.mean((vae.reconstruct(x) - x / 255.0) ** 2) for x in (images, 255 - images)]
    assert error.startswith(f"--input={tmp_path}/dark_on_light.npy: the model reconstructs the neg")
    assert f"(mean squared error {errors[0]:.2g}, not {errors[1]:.2g})" in error
    assert error.count("\n") == 1
    some = np.concatenate([images[:12], 255 - images[12:]])  # not as a whole
    noise = np.random.RandomState(0).randint(0, 256, images.shape).astype(np.uint8)
    for name, others in (("light_on_dark", images), ("some", some), ("noise", noise)):
        np.save(tmp_path / f"{name}.npy", others)
        mode(run, tmp_path / f"{name}.npy", tmp_path / "out")
        assert capsys.readouterr().err == ""


def test_how_images_are_read_may_differ_from_training(trained_run, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "in")
    (tmp_path / "in" / "a" / "digit 0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    run = RunDirectory.open(trained_run)
    with pytest.raises(UserError, match=r"with --config\.data\.skip_damaged=True$"):
        encode.encode(run, tmp_path / "in", tmp_path / "out")
    skipping = run.with_overrides({"data.skip_damaged": True})
    encode.encode(skipping, tmp_path / "in", tmp_path / "out")
    assert len(np.load(tmp_path / "out" / "latents.npz")["mean"]) == 3
    masks = (datasets.load("mnist_5k").test.images[:3] > 127).astype(np.uint8)
    np.save(tmp_path / "masks.npy", masks)
    encode.encode(run.with_overrides({"data.levels": 2}), tmp_path / "masks.npy", tmp_path / "out")
    expected = vae_jax.load_run(trained_run).encode(masks.astype(bool))[0]
    latents = np.load(tmp_path / "out" / "latents.npz")
    np.testing.assert_allclose(latents["mean"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_run_directory_is_not_written_to_where_another_folder_is_given(copied_run, tmp_path):
    before = files_below(copied_run)
    run, out = RunDirectory.open(copied_run), tmp_path / "out"
    evaluate.evaluate(run, out)
    sample.sample(run, out)
    interpolate.interpolate(run, output=out)
    assert files_below(copied_run) == before
    assert {"evaluation.json", "summary.json", "samples.npy"} <= files_below(out).keys()


def test_where_nothing_can_be_written_the_error_says_what_to_do(copied_run, tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, os.strerror(30))

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", read_only)
        with pytest.raises(UserError) as error:
            sample.sample(RunDirectory.open(copied_run))
    assert str(error.value) == (
        f"{copied_run}: files cannot be written there (Read-only file system); give another folder "
        "with --output=FOLDER"
    )
    sample.sample(RunDirectory.open(copied_run), tmp_path / "out")
