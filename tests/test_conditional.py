"""A conditional model: labels go in, classes come out, and missing labels are reported."""

import functools
import json

import jax
import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

import vae_jax
from tests.support.common import apply, error_of, make_small_config
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

IMAGES = np.random.RandomState(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
ENCODERS = [{"kind": "lstm", "hidden_size": 4}, {"kind": "dense", "dense_sizes": (5,)}]
DECODER = {"dense_sizes": (), "grid_channels": 1, "filters": (2,), "strides": (2,)}


def conditional_config():
    config = make_small_config()
    config.condition.kind = "label"
    config.train.num_epochs = 1
    return config


@pytest.fixture(scope="module")
def run(make_once, compilation_cache):
    """A conditional run, to be read and not written to."""
    path = make_once(
        "conditional", lambda path: train.train_and_evaluate(conditional_config(), path)
    )
    return RunDirectory.open(path)


@pytest.fixture(scope="module")
def vae(run):
    return vae_jax.load_run(run)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("mnist_5k").test[:20]


@pytest.mark.parametrize(
    ("encoder", "num_classes"),
    [(ENCODERS[1], 0), (ENCODERS[1], 4), pytest.param(ENCODERS[0], 4, marks=pytest.mark.slow)],
    ids=["unconditional", "dense", "lstm"],
)
def test_encoder_and_decoder_depend_on_the_label_of_a_conditional_model(encoder, num_classes):
    model = create_vae(2, encoder, DECODER, (8, 8, 1), num_classes=num_classes)
    params = init_params(model, jax.random.key(0))
    means, images = [], []
    for label in (1, 3):
        labels = np.full(3, label, np.int32)
        means.append(apply(model, params, Batch(IMAGES, labels), method="posterior").mean)
        images.append(apply(model, params, means[0], Batch(None, labels), method="decode"))
    assert np.array_equal(*means) == np.array_equal(*images) == (num_classes == 0)


@functools.partial(jax.jit, static_argnames=("model", "name"))
def apply_prior(model, params, batch, array, name):
    return vae_jax.apply(
        model, params, method=lambda model: getattr(model.prior(batch), name)(array)
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coupling_flow", "mixture"])
def test_a_learned_prior_is_a_density_for_each_label(kind):
    prior_fields = {"kind": kind, "num_layers": 2, "hidden_size": 4, "num_components": 5}
    model = create_vae(2, ENCODERS[1], DECODER, (8, 8, 1), prior=prior_fields, num_classes=3)
    params = init_params(model, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = tree.unflatten(
        [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )

    def ask(name, array, labels):
        return apply_prior(model, params, Batch(labels=np.int32(labels)), array, name)

    axis = np.linspace(-12.0, 12.0, 481)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2).astype(np.float32)
    densities = [np.exp(ask("log_density", grid, np.full(len(grid), y))) for y in (0, 2)]
    for density in densities:
        assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=2e-3)
    assert not np.allclose(*densities)
    if kind == "coupling_flow":
        points = grid[::9000]
        labels = np.arange(len(points)) % 3
        base = ask("to_base", points, labels)
        np.testing.assert_allclose(ask("from_base", base, labels), points, atol=1e-4)


def test_samples_are_of_one_class_or_a_row_for_each(run, vae, tmp_path):
    sample.sample(run, tmp_path, num=5, seed=1, label="7")
    images = np.load(tmp_path / "samples.npy")
    np.testing.assert_array_equal(images, vae.sample(5, seed=1, label=7))
    assert not np.allclose(images, vae.sample(5, seed=1, label=3))
    sample.sample(run, tmp_path, num=30, seed=1)
    images = np.load(tmp_path / "samples.npy")
    np.testing.assert_array_equal(images, vae.sample(30, seed=1))
    latents = generation.draw_latents(vae.model, vae.params, make_root_key(1), 30)
    np.testing.assert_allclose(images[12], vae.decode(latents[12], 4), atol=1e-6)
    height, width = np.asarray(Image.open(tmp_path / "plots" / "samples.png")).shape
    assert height > width  # ten rows of three


def test_unknown_classes_are_one_line(run, tiny_run, tmp_path):
    error = error_of(sample.sample, run, tmp_path, label="17")
    assert "--label is '17', must be one of 0, 1" in error
    error = error_of(sample.sample, RunDirectory.open(tiny_run), tmp_path, label="7")
    assert "not conditional" in error


@pytest.fixture
def pictures(digits, tmp_path):
    """Digits of the classes 3, 4 and 5 in folders of these names."""
    for index in (3, 4, 5):
        path = tmp_path / "pictures" / str(digits.labels[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[index, ..., 0]).save(path)
    return tmp_path / "pictures"


def test_reconstruct_keeps_the_style_and_changes_the_class(run, vae, digits, pictures, tmp_path):
    reconstruct.reconstruct(run, tmp_path / "out", input=pictures)
    row = np.asarray(Image.open(tmp_path / "out" / "reconstructions" / "3" / "3.png"))
    assert row.shape == (28, 28 * 12)  # the image, its reconstruction, ten classes
    np.testing.assert_array_equal(row[:, :28], digits.images[3, ..., 0])
    latents, _ = vae.encode(digits.images[3], 3)
    for label in (3, 8):
        expected = np.rint(255 * vae.decode(latents, label)[..., 0])
        np.testing.assert_allclose(row[:, 28 * (2 + label) : 28 * (3 + label)], expected, atol=1)
    np.testing.assert_array_equal(row[:, 28:56], row[:, 28 * 5 : 28 * 6])


def test_inputs_have_the_labels_of_the_run(run, digits, pictures, tmp_path):
    encode.encode(run, tmp_path / "out", input=pictures)
    latents = np.load(tmp_path / "out" / "latents.npz")
    assert latents["labels"].tolist() == [3, 4, 5]  # and not 0, 1, 2
    interpolate.interpolate(run, tmp_path / "out", input=pictures)
    (pictures / "3").rename(pictures / "three")
    error = error_of(reconstruct.reconstruct, run, tmp_path / "out", input=pictures)
    assert "a class is 'three', must be one of 0, 1, 2" in error
    np.save(tmp_path / "images.npy", digits.images[:3])
    error = error_of(reconstruct.reconstruct, run, tmp_path / "out", input=tmp_path / "images.npy")
    assert "has no labels" in error


def test_labels_from_python_are_checked(vae, tiny_run, digits):
    images, labels = digits.images, digits.labels
    assert vae.class_names == tuple("0123456789")
    assert "num_classes=10" in repr(vae)
    mean, _ = vae.encode(images, labels)
    np.testing.assert_array_equal(mean[:1], vae.encode(images[:1], int(labels[0]))[0])
    np.testing.assert_allclose(vae.reconstruct(images, labels), vae.decode(mean, labels), atol=1e-6)
    for wrong, error, expected in (
        (None, ValueError, "labels are missing"),
        (10, ValueError, "labels are 10 to 10, must be from 0 to 9"),
        (labels[:3], ValueError, "broadcast"),
        (0.5, TypeError, "labels are float64"),
    ):
        with pytest.raises(error, match=expected):
            vae.encode(images, wrong)
    with pytest.raises(ValueError, match="not conditional"):
        vae_jax.load_run(tiny_run).encode(images[:, 2:-2:3, 2:-2:3], labels)


def test_log_likelihoods_and_lines_are_of_the_class(vae, digits):
    images, labels = digits.images[:4] > 127, digits.labels[:4]
    values = vae.log_likelihood(images, labels, num_samples=5)
    first = vae.log_likelihood(images, 0, num_samples=5)
    assert values[0] == first[0]  # a zero
    assert (values[1:] != first[1:]).all()
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
    model = create_vae(2, ENCODERS[1], DECODER, (8, 8, 1), num_classes=3)
    guesses = log_likelihood.classify(model, {}, None, Batch(IMAGES[:2]), 10)
    assert guesses.tolist() == [1, 2]


@pytest.mark.slow
def test_evaluate_measures_the_classes_and_explore_selects_them(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "_NUM_SAMPLES_PER_CLASS", 30)
    monkeypatch.setattr(evaluate, "_NUM_CLASS_SAMPLES", 3)
    evaluate.evaluate(run, tmp_path)
    measures = json.loads((tmp_path / "evaluation.json").read_text())["conditional"]
    assert 0.1 < measures["bayes_accuracy"] <= 1.0
    assert 0.0 <= measures["sample_accuracy"] <= 1.0
    assert "bayes_accuracy" in capsys.readouterr().out
    explore.explore(run, tmp_path)
    page = (tmp_path / "explorer.html").read_text()
    assert '"numSelected": 10' in page and 'id="selector"' in page


@pytest.mark.slow
def test_an_export_takes_the_label_as_a_second_input(run, vae, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "has_onnx", lambda: False)
    export.export(run, tmp_path)
    encoder, decoder = (
        jax_export.deserialize(bytearray((tmp_path / "export" / name).read_bytes()))
        for name in ("encoder.stablehlo", "decoder.stablehlo")
    )
    images, labels = digits.images[:3] / np.float32(255), digits.labels[:3].astype(np.int32)
    mean, _ = encoder.call(images, labels)
    np.testing.assert_allclose(mean, vae.encode(digits.images[:3], labels)[0], atol=1e-5)
    np.testing.assert_allclose(decoder.call(mean, labels), vae.decode(mean, labels), atol=1e-5)
    code = (tmp_path / "export" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "export")
    exec(code, names := {})
    assert names["images"].shape == (3, 28, 28, 1)


def test_sets_without_classes_are_refused(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (20, 8, 8), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    config = conditional_config()
    config.data.name, config.data.path = "images", str(tmp_path / "images.npz")
    config.data.validation_size = config.data.test_size = 2
    error = error_of(train.train_and_evaluate, config, tmp_path / "run")
    assert "has no labels of two or more classes" in error
    assert not (tmp_path / "run").exists()
