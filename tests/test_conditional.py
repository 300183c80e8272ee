"""A conditional model: labels go in, classes come out, and missing labels are reported."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

import vae_jax
from tests.support.common import error_of
from vae_jax import (
    datasets,
    encode,
    evaluate,
    explore,
    export,
    interpolate,
    reconstruct,
    sample,
    train,
)
from vae_jax.evaluation import generation, log_likelihood, programs
from vae_jax.model.rng_streams import make_root_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import create_vae
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.train_state import init_params

ENCODER = {"kind": "dense", "dense_sizes": (5,)}
DECODER = {"dense_sizes": (), "grid_channels": 1, "filters": (2,), "strides": (2,)}


@pytest.fixture(scope="module")
def run(make_once, make_tiny_config, compilation_cache):
    """A conditional run, to be read and not written to."""
    config = make_tiny_config(**{"condition.kind": "label"})
    path = make_once("conditional", lambda path: train.train_and_evaluate(config, path))
    return RunDirectory.open(path)


@pytest.fixture(scope="module")
def vae(run):
    return vae_jax.load_run(run)


@pytest.fixture(scope="module")
def digits():
    """A digit of each class, in their order."""
    digits = datasets.load("mnist_5k").test[:10]
    return datasets.Split(digits.images[:, 2:-2:3, 2:-2:3], digits.labels)


@functools.partial(jax.jit, static_argnames=("model", "name"))
def apply_prior(model, params, labels, array, name):
    def ask(model):
        return getattr(model.prior(Batch(labels=labels)), name)(array)

    return vae_jax.apply(model, params, method=ask)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coupling_flow", "mixture"])
def test_a_learned_prior_is_a_density_for_each_label(kind):
    prior_fields = {"kind": kind, "num_layers": 2, "hidden_size": 4, "num_components": 5}
    model = create_vae(2, ENCODER, DECODER, (8, 8, 1), prior=prior_fields, num_classes=3)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + np.float32(0.2 * rng.normal(size=leaf.shape)),
        init_params(model, jax.random.key(0)),
    )
    axis = np.linspace(-12.0, 12.0, 481)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2).astype(np.float32)
    densities = []
    for label in (0, 2):
        labels = np.full(len(grid), label, np.int32)
        densities.append(np.exp(apply_prior(model, params, labels, grid, "log_density")))
        assert densities[-1].sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=2e-3)
    assert not np.allclose(*densities)
    if kind == "coupling_flow":
        points, labels = grid[::9000], labels[::9000]
        base = apply_prior(model, params, labels, points, "to_base")
        again = apply_prior(model, params, labels, base, "from_base")
        np.testing.assert_allclose(again, points, atol=1e-4)


def test_samples_are_of_one_class_or_a_row_for_each(run, vae, tiny_run, tmp_path):
    sample.sample(run, tmp_path, num=5, seed=1, label="7")
    images = np.load(tmp_path / "samples.npy")
    np.testing.assert_array_equal(images, vae.sample(5, seed=1, label=7))
    assert not np.allclose(images, vae.sample(5, seed=1, label=3))
    sample.sample(run, tmp_path, num=30, seed=1)
    images = np.load(tmp_path / "samples.npy")
    latents = generation.draw_latents(vae.model, vae.params, make_root_key(1), 30)
    np.testing.assert_allclose(images[12], vae.decode(latents[12], 4), atol=1e-6)
    height, width = np.asarray(Image.open(tmp_path / "plots" / "samples.png")).shape
    assert height > width  # ten rows of three
    error = error_of(sample.sample, run, tmp_path, label="17")
    assert "--label is '17', must be one of 0, 1" in error
    error = error_of(sample.sample, RunDirectory.open(tiny_run), tmp_path, label="7")
    assert "not conditional" in error


def test_images_of_the_user_have_the_labels_of_the_run(run, vae, digits, tmp_path):
    pictures, output = tmp_path / "pictures", tmp_path / "out"
    for label in (3, 4, 5):
        (pictures / str(label)).mkdir(parents=True)
        Image.fromarray(digits.images[label, ..., 0]).save(pictures / str(label) / "a.png")
    encode.encode(run, output, input=pictures)
    latents = np.load(output / "latents.npz")
    assert latents["labels"].tolist() == [3, 4, 5]  # and not 0, 1, 2
    interpolate.interpolate(run, output, input=pictures)
    # A row has the image, its reconstruction, and its style in ten classes.
    reconstruct.reconstruct(run, output, input=pictures)
    row = np.asarray(Image.open(output / "reconstructions" / "3" / "a.png"))
    image, reconstruction, *of_classes = np.split(row, 12, axis=1)
    np.testing.assert_array_equal(image, digits.images[3, ..., 0])
    np.testing.assert_array_equal(reconstruction, of_classes[3])
    mean, _ = vae.encode(digits.images[3], 3)
    for label in range(10):
        expected = np.rint(255 * vae.decode(mean, label)[..., 0])
        np.testing.assert_allclose(of_classes[label], expected, atol=1)
    (pictures / "3").rename(pictures / "three")
    error = error_of(reconstruct.reconstruct, run, output, input=pictures)
    assert "a class is 'three', must be one of 0, 1, 2" in error
    np.save(tmp_path / "images.npy", digits.images)
    error = error_of(reconstruct.reconstruct, run, output, input=tmp_path / "images.npy")
    assert "has no labels" in error


def test_labels_from_python_are_checked(vae, tiny_run, digits):
    images, labels = digits.images, digits.labels
    mean, _ = vae.encode(images, labels)
    of_zeros, _ = vae.encode(images, 0)
    np.testing.assert_array_equal(mean[0], of_zeros[0])
    assert not np.isclose(mean[1:], of_zeros[1:]).all(1).any()
    for wrong, error, expected in (
        (None, ValueError, "labels are missing"),
        (10, ValueError, "labels are 10 to 10, must be from 0 to 9"),
        (labels[:3], ValueError, "broadcast"),
        (0.5, TypeError, "labels are float64"),
    ):
        with pytest.raises(error, match=expected):
            vae.encode(images, wrong)
    with pytest.raises(ValueError, match="not conditional"):
        vae_jax.load_run(tiny_run).encode(images, labels)


@pytest.mark.slow
def test_log_likelihoods_and_lines_are_of_the_class(vae, digits):
    images, labels = digits.images[:4] > 127, digits.labels[:4]
    values = vae.log_likelihood(images, labels, num_samples=5)
    of_zeros = vae.log_likelihood(images, 0, num_samples=5)
    assert (values == of_zeros).tolist() == [True, False, False, False]
    first, last = digits.images[2], digits.images[5]
    line = vae.interpolate(first, last, 4, 2, 5)
    ends = vae.encode(first, 2)[0], vae.encode(last, 5)[0]
    for step, label in enumerate((2, 2, 5, 5)):  # it changes in the middle
        latents = ends[0] + (ends[1] - ends[0]) * step / 3
        np.testing.assert_allclose(line[step], vae.decode(latents, label), atol=1e-5)


def test_bayes_rule_takes_the_class_with_the_largest_likelihood(monkeypatch):
    likelihoods = np.log([[0.2, 0.1], [0.7, 0.3], [0.1, 0.6]])  # [class, image]

    def estimate(model, params, key, data, num_samples):
        [label] = set(data.labels.tolist())
        return log_likelihood.Likelihoods(likelihoods[label], None, None)

    monkeypatch.setattr(log_likelihood, "estimate", estimate)
    model = create_vae(2, ENCODER, DECODER, (8, 8, 1), num_classes=3)
    guesses = log_likelihood.classify(
        model, {}, None, Batch(np.zeros((2, 8, 8, 1), np.float32)), 10
    )
    assert guesses.tolist() == [1, 2]


@pytest.mark.slow
def test_evaluate_measures_the_classes_and_explore_selects_them(run, tmp_path):
    evaluate.evaluate(run, tmp_path)
    measures = json.loads((tmp_path / "evaluation.json").read_text())["conditional"]
    assert 0.0 < measures["bayes_accuracy"] <= 1.0
    explore.explore(run, tmp_path)
    page = (tmp_path / "explorer.html").read_text()
    assert '"numSelected": 10' in page and 'id="selector"' in page


@pytest.mark.slow
def test_an_export_takes_the_label_as_a_second_input(run, vae, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "has_onnx", lambda: False)
    export.export(run, tmp_path)
    monkeypatch.chdir(tmp_path / "export")
    code = (tmp_path / "export" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code, names := {})
    assert names["images"].shape == (3, 8, 8, 1)
    images, labels = digits.images[:3] / np.float32(255), digits.labels[:3].astype(np.int32)
    mean, _ = names["encoder"].call(images, labels)
    np.testing.assert_allclose(mean, vae.encode(digits.images[:3], labels)[0], atol=1e-5)
    decoded = names["decoder"].call(mean, labels)
    np.testing.assert_allclose(decoded, vae.decode(mean, labels), atol=1e-5)


def test_sets_without_classes_are_refused(make_tiny_config, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (100, 8, 8), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    fields = {"data.path": str(tmp_path / "images.npz"), "condition.kind": "label"}
    error = error_of(train.train_and_evaluate, make_tiny_config(**fields), tmp_path / "run")
    assert "has no labels of two or more classes" in error
    assert not (tmp_path / "run").exists()
