"""A trained model in a user's program."""

import concurrent.futures
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vae_jax
from tests.support.common import ROOT
from vae_jax import datasets
from vae_jax.evaluation import log_likelihood
from vae_jax.runtime.errors import UserError
from vae_jax.training.weights import write_weights


@pytest.fixture(scope="module")
def vae(trained_run):
    return vae_jax.load_run(trained_run)


@pytest.fixture(autouse=True)
def samples_one_by_one(monkeypatch):
    """One program serves any number of samples."""
    monkeypatch.setattr(log_likelihood, "_SAMPLES_PER_CALL", 1)


@pytest.fixture(scope="module")
def images():
    return datasets.load("mnist_5k").test.images[:7]


def test_images_may_have_every_form(vae, images):
    mean, log_var = vae.encode(images)
    assert mean.shape == log_var.shape == (7, 8)
    assert mean.dtype == np.float32
    for form in (images[..., 0], (images / 255).astype(np.float32), jnp.array(images)):
        for other, expected in zip(vae.encode(form), (mean, log_var), strict=True):
            np.testing.assert_allclose(other, expected, rtol=1e-5, atol=1e-5)
    for one in (images[3], images[3, ..., 0]):
        np.testing.assert_allclose(vae.encode(one)[0], mean[3], rtol=1e-5, atol=1e-5)
    is_white = images > 127
    np.testing.assert_array_equal(vae.encode(is_white)[0], vae.encode(np.uint8(255) * is_white)[0])


def test_the_shapes_of_results(vae, images):
    assert vae.decode(np.zeros((3, 8))).shape == (3, 28, 28, 1)
    assert vae.decode([0.0] * 8).shape == (28, 28, 1)
    assert vae.reconstruct(images).shape == (7, 28, 28, 1)
    assert vae.reconstruct(images[0]).shape == (28, 28, 1)
    assert vae.interpolate(images[:2], images[2:4], 5).shape == (2, 5, 28, 28, 1)
    assert vae.interpolate(images[0], images[1], num_steps=3).shape == (3, 28, 28, 1)
    nothing = images[:0]
    assert vae.encode(nothing)[0].shape == (0, 8)
    assert vae.reconstruct(nothing).shape == vae.sample(0).shape == (0, 28, 28, 1)
    assert vae.interpolate(nothing, nothing).shape == (0, 10, 28, 28, 1)
    assert vae.log_likelihood(nothing).shape == (0,)
    assert {*np.unique(vae.sample(9, pixels=True))} == {0.0, 1.0}


@pytest.mark.slow
def test_scores_are_of_each_image_in_any_order(vae, images):
    pixels = images[:, :, :, 0] > 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores, others, one = (
            vae.score(each, num_samples=20, seed=3) for each in (pixels, pixels[::-1], pixels[5])
        )
        values = vae.log_likelihood(pixels, num_samples=20, seed=3)
        inverted = vae.log_likelihood(~pixels, num_samples=20, seed=3)
    assert [*scores] == ["negative_elbo", "log_likelihood", "effective_sample_size"]
    np.testing.assert_array_equal(values, scores["log_likelihood"])
    for name, each in scores.items():
        assert (each.shape, each.dtype) == ((7,), np.float64)
        np.testing.assert_allclose(others[name][::-1], each, rtol=1e-3)
        assert one[name] == pytest.approx(each[5], rel=1e-3)
    assert (-scores["negative_elbo"] < values).all() and (values < 0.0).all()
    assert inverted.mean() < values.mean() - 200.0  # inverted digits are not digits
    sizes = scores["effective_sample_size"]
    assert ((sizes >= 0.999) & (sizes <= 20.0)).all()
    # A single sample is its own bound.
    single = vae.score(pixels, num_samples=1)
    np.testing.assert_allclose(single["negative_elbo"], -single["log_likelihood"], rtol=1e-6)


@pytest.mark.slow
def test_an_estimate_of_a_single_sample_is_warned_of(vae, images):
    inverted = images < 128
    with pytest.warns(UserWarning, match="^7 of 7 images have an effective sample size") as caught:
        vae.score(inverted, num_samples=10)
    assert [warning.filename for warning in caught] == [__file__]
    vae.score(inverted, num_samples=9)  # too few to tell


@pytest.mark.parametrize(
    ("method", "arguments", "error", "expected"),
    [
        ("encode", [np.zeros((2, 28, 28), np.int64)], TypeError, "images are int64, must be uint8"),
        ("reconstruct", ["a.png"], TypeError, "images are <U5, must be uint8"),
        ("encode", [np.zeros((2, 20, 28))], ValueError, r"have shape \(2, 20, 28\)"),
        ("encode", [np.zeros(())], ValueError, r"images have shape \(\)"),
        ("encode", [np.full((1, 28, 28), 2.0)], ValueError, "not all are from 0 to 1"),
        ("score", [np.full((28, 28), np.nan)], ValueError, "not all are from 0 to 1"),
        ("decode", [np.zeros((2, 7))], ValueError, r"shape \(2, 7\), must be finite, 8 each"),
        ("decode", [np.full(8, np.inf)], ValueError, "finite"),
        ("sample", [-1], ValueError, "num_images is -1, must be at least 0"),
        ("interpolate", [np.eye(28), np.eye(28), 1], ValueError, "num_steps is 1, must be at le"),
        ("interpolate", [np.zeros((2, 28, 28)), np.eye(28)], ValueError, "same number of images"),
        ("score", [np.full((28, 28), 0.2)], ValueError, "784 gray pixels"),
        ("score", [np.eye(28), None, 0], ValueError, "num_samples is 0, must be at least 1"),
    ],
)
def test_other_arguments_are_refused(vae, method, arguments, error, expected):
    with pytest.raises(error, match=expected):
        getattr(vae, method)(*arguments)


def test_options_of_the_users_program_stay_and_change_nothing(vae, images):
    expected = vae.sample(3), vae.encode(images)[0]
    names = ("jax_enable_x64", "jax_threefry_partitionable", "jax_numpy_dtype_promotion")
    before = {name: jax.config.values[name] for name in names}
    try:
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_threefry_partitionable", False)
        jax.config.update("jax_numpy_dtype_promotion", "strict")
        assert jnp.ones(1).dtype == jnp.float64
        with concurrent.futures.ThreadPoolExecutor() as pool:
            found = pool.submit(lambda: (vae.sample(3), vae.encode(images)[0])).result()
        assert jnp.ones(1).dtype == jnp.float64
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


def test_parameters_alone_will_do_unless_they_are_damaged(vae, trained_run, tmp_path):
    for name in ("config.json", "metrics.csv"):
        shutil.copy(trained_run / name, tmp_path)
    with pytest.raises(UserError, match="finished epoch"):
        vae_jax.load_run(tmp_path)
    path = tmp_path / "weights.safetensors"
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), vae.params)
    for params, tolerance in ((half, 0.02), (vae.params, 0.0)):
        write_weights(path, params, {"epoch": "2", "step": "80"})
        other = vae_jax.load_run(tmp_path)
        assert jax.tree.leaves(other.params)[0].dtype == np.float32
        np.testing.assert_allclose(other.sample(3), vae.sample(3), rtol=0.0, atol=tolerance)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    for damaged in (content, content[:-10]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            vae_jax.load_run(tmp_path)


def test_no_run_and_no_replica(tmp_path, trained_run):
    with pytest.raises(UserError, match="holds no run"):
        vae_jax.load_run(tmp_path)
    with pytest.raises(UserError, match="holds seed 0; give one of them as seed, not 1"):
        vae_jax.load_run(trained_run, seed=1)


@pytest.mark.nightly
@pytest.mark.slow
def test_the_example_runs(tmp_path):
    command = [sys.executable, ROOT / "docs" / "examples" / "use_a_trained_model.py"]
    environment = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "HOME": str(tmp_path)}
    assert b"AUROC" in subprocess.check_output(command, cwd=ROOT, env=environment)
