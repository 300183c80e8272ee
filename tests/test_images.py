"""Runs on a user's own images, in every mode, as from the command line."""

import json

import matplotlib.image
import numpy as np
import pytest

from tests.support.common import make_small_config
from vae_jax import (
    configuration,
    datasets,
    encode,
    evaluate,
    explore,
    fit_prior,
    report,
    sample,
    train,
)
from vae_jax.evaluation.measures import Analysis, Evaluation, Summary
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import read_record
from vae_jax.training.run_directory import RunDirectory


def make_config(path, **fields):
    fields = {
        "data.name": "images",
        "data.path": str(path),
        "data.validation_size": 20,
        "data.test_size": 30,
        "decoder.strides": (2, 2),
        "decoder.filters": (4, 4),
        "train.batch_size": 10,
        "train.num_epochs": 1,
        "evaluate.num_importance_samples": 3,
    } | fields
    return configuration.from_dict(make_small_config().to_dict(), fields)


@pytest.mark.slow
def test_every_mode_works_on_color_images_without_labels(tmp_path):
    random = np.random.default_rng(0)
    colors = random.uniform(size=(150, 1, 1, 3)) * np.linspace(0.2, 1.0, 7)[:, None]
    images = np.round(255 * np.broadcast_to(colors, (150, 10, 7, 3))).astype(np.uint8)
    np.savez(tmp_path / "photos.npz", images=images)
    workdir = tmp_path / "run"
    config = make_config(tmp_path / "photos.npz", **{"likelihood.kind": "discretized_logistic"})
    train.train_and_evaluate(config, workdir)
    record = json.loads((workdir / "config.json").read_text())
    assert record["image_shape"] == [10, 7, 3] and isinstance(record["split_seed"], int)
    run = RunDirectory.open(workdir)
    evaluate.evaluate(run)
    measured = read_record(workdir / "evaluation.json", Evaluation).likelihood
    summary = read_record(workdir / "summary.json", Summary)
    bits = summary.test["loss"] / (10 * 7 * 3 * np.log(2.0))
    assert summary.test_bits_per_dimension == pytest.approx(bits)
    assert measured.bits_per_dimension <= measured.negative_elbo / (210 * np.log(2.0))
    sample.sample(run.with_overrides({"sample.pixels": True}))
    pixels = np.load(workdir / "samples.npy")
    assert pixels.shape == (100, 10, 7, 3)
    np.testing.assert_allclose(pixels * 255, np.round(pixels * 255), atol=1e-4)
    report.write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "## photos.npz, discretized logistic" in text and "bits per dimension" in text
    analysis = read_record(workdir / "analysis.json", Analysis)
    assert analysis.latents.probe_accuracy is None
    for name in ("reconstructions", "samples", "interpolation", "latent_map"):
        plot = matplotlib.image.imread(workdir / "plots" / f"{name}.png")[..., :3]
        assert (np.ptp(plot, axis=-1) > 0.1).any(), name  # it has color


def digits(path, num_images=40, **arrays):
    """A file of small gray images."""
    images = datasets.load("mnist_5k").test.images[:num_images, ::4, ::4]
    np.savez(path, **{"images": images} | arrays)
    return path


@pytest.mark.parametrize(
    ("fields", "arrays", "expected"),
    [
        ({}, {"images": np.uint8(np.indices((60, 8, 8)).sum(0) % 2)}, "data.levels=2;"),
        ({"decoder.strides": (4, 4)}, {}, r"decoder.strides is \(4, 4\), .* at most 7"),
        ({"data.test_size": 1}, {}, r"test images \(1\) are all the same"),
        (
            {},
            {"images": np.full((60, 7, 7), 200, np.uint8)},
            r"test images \(30\) are all the same",
        ),
    ],
)
def test_images_that_cannot_be_trained_on_are_refused_first(tmp_path, fields, arrays, expected):
    config = make_config(digits(tmp_path / "a.npz", 60, **arrays), **fields)
    with pytest.raises(UserError, match=expected):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("num_images", "fields", "labels"),
    [
        (15, {"data.test_size": 2, "data.validation_size": 1}, np.zeros(15, int)),
        pytest.param(
            *(40, {"data.test_size": 3, "data.validation_size": 2}, np.arange(40)),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_few_images_work_in_every_mode(tmp_path, num_images, fields, labels, capsys):
    fields = fields | {"likelihood.kind": "gaussian"}
    config = make_config(digits(tmp_path / "a.npz", num_images, labels=labels), **fields)
    workdir = tmp_path / "runs" / "a"
    train.train_and_evaluate(config, workdir)
    run = RunDirectory.open(workdir)
    for mode in (evaluate.evaluate, encode.encode, explore.explore):
        mode(run)
    if num_images == 40:
        prior = {"prior.kind": "mixture", "prior.num_components": 3}
        mixture = run.with_config(configuration.from_dict(config.to_dict(), prior), ("prior",))
        fit_prior.fit_prior(mixture, tmp_path / "runs" / "fitted")
    report.write_report(tmp_path / "runs")
    printed = capsys.readouterr()
    assert "not analyzed" not in printed.out and "cannot be shown" not in printed.out
    assert "regression" not in printed.err and "RuntimeWarning" not in printed.err
    text = (tmp_path / "runs" / "report.md").read_text()
    assert "| a |" in text and "bits per dimension" not in text
    assert read_record(workdir / "summary.json", Summary).test_bits_per_dimension is None
