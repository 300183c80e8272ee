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
    interpolate,
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


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Small color images without labels: gradients of random colors."""
    random = np.random.default_rng(0)
    colors = random.uniform(size=(150, 1, 1, 3)) * np.linspace(0.2, 1.0, 7)[:, None]
    images = np.round(255 * np.broadcast_to(colors, (150, 10, 7, 3))).astype(np.uint8)
    path = tmp_path_factory.mktemp("photos") / "photos.npz"
    np.savez(path, images=images)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["discretized_logistic", "gaussian"])
def test_every_mode_works_on_color_images_without_labels(tmp_path, photos, likelihood):
    config, workdir = make_config(photos, **{"likelihood.kind": likelihood}), tmp_path / "run"
    train.train_and_evaluate(config, workdir)
    record = json.loads((workdir / "config.json").read_text())
    assert record["image_shape"] == [10, 7, 3]
    assert isinstance(record["split_seed"], int)
    run = RunDirectory.open(workdir)
    evaluate.evaluate(run)
    measured = read_record(workdir / "evaluation.json", Evaluation).likelihood
    summary = read_record(workdir / "summary.json", Summary)
    if likelihood == "gaussian":
        assert measured.bits_per_dimension is summary.test_bits_per_dimension is None
    else:
        bits = summary.test["loss"] / (10 * 7 * 3 * np.log(2.0))
        assert summary.test_bits_per_dimension == pytest.approx(bits)
        assert measured.bits_per_dimension <= measured.negative_elbo / (210 * np.log(2.0))
    sample.sample(run.with_overrides({"sample.pixels": True}))
    pixels = np.load(workdir / "samples.npy")
    assert pixels.shape == (100, 10, 7, 3)
    if likelihood == "discretized_logistic":
        np.testing.assert_allclose(pixels * 255, np.round(pixels * 255), atol=1e-4)
    interpolate.interpolate(run)
    report.write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert f"## photos.npz, color pixels, {likelihood.replace('_', ' ')}" in text
    assert "### Samples, in features of the principal components" in text
    assert ("bits per dimension" in text) == (likelihood == "discretized_logistic")
    analysis = read_record(workdir / "analysis.json", Analysis)
    assert analysis.latents.probe_accuracy is None
    for name in ("reconstructions", "samples", "interpolation", "latent_map"):
        plot = matplotlib.image.imread(workdir / "plots" / f"{name}.png")[..., :3]
        assert (np.ptp(plot, axis=-1) > 0.1).any(), name  # it has color


def test_nearly_black_images_are_refused_before_anything_is_written(tmp_path):
    np.save(tmp_path / "masks.npy", np.uint8(np.indices((60, 8, 8)).sum(0) % 2))
    with pytest.raises(UserError, match=r"if 1 is white, set --config\.data\.levels=2; "):
        train.train_and_evaluate(make_config(tmp_path / "masks.npy"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("levels", [-1, 1, 65_537])
def test_levels_that_cannot_be(tmp_path, levels):
    with pytest.raises(UserError, match=f"data.levels is {levels}, must be 0, or from 2 to 65536"):
        make_config(tmp_path, **{"data.levels": levels})


def test_a_run_recorded_before_there_were_levels(tmp_path):
    stored = make_config(tmp_path).to_dict()
    del stored["data"]["levels"]
    assert configuration.from_record(stored).data.levels == 0


def test_strides_larger_than_the_images_are_refused(tmp_path, photos):
    config = make_config(photos)
    config.decoder.strides = (4, 4)
    with pytest.raises(UserError, match=r"decoder.strides is \(4, 4\), .* 16, must be at most 10"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_images_than_those_of_the_run_are_refused(tmp_path, photos):
    """The run names the images by what they hold, not by their path."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    record = {"config": make_config(photos).to_dict(), "data_sha256": "other"}
    (workdir / "config.json").write_text(json.dumps(record))
    (workdir / "summary.json").touch()  # trained already: else the run may begin anew
    with pytest.raises(UserError, match="the run was made from data with SHA-256 other"):
        train.train_and_evaluate(make_config(photos), workdir)


def digits(path, num_images=40, **arrays):
    """A file of small gray images."""
    images = datasets.load("mnist_5k").test.images[:num_images, ::4, ::4]
    np.savez(path, **{"images": images} | arrays)
    return path


@pytest.mark.parametrize(
    ("fields", "arrays"),
    [
        ({"data.test_size": 1}, {}),
        ({}, {"images": np.full((60, 7, 7), 200, np.uint8)}),
        ({}, {"images": np.full((60, 7, 7), 200, np.uint8), "labels": np.arange(60) % 3}),
    ],
)
def test_test_images_that_are_alike_are_refused_before_training(tmp_path, fields, arrays):
    config = make_config(digits(tmp_path / "a.npz", 60, **arrays), **fields)
    with pytest.raises(UserError, match=r"the test images \((1|30)\) are all alike, so nothing"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("num_images", "fields", "labels"),
    [
        (15, {"data.test_size": 2, "data.validation_size": 1}, None),
        (40, {"data.test_size": 5, "data.validation_size": 1}, np.zeros(40, int)),
        (40, {"data.test_size": 3, "data.validation_size": 2}, np.arange(40)),
    ],
)
def test_few_images_work_in_every_mode(tmp_path, num_images, fields, labels, capsys):
    arrays = {} if labels is None else {"labels": labels}
    config = make_config(digits(tmp_path / "a.npz", num_images, **arrays), **fields)
    train.train_and_evaluate(config, tmp_path / "runs" / "a")
    run = RunDirectory.open(tmp_path / "runs" / "a")
    evaluate.evaluate(run)
    interpolate.interpolate(run)
    encode.encode(run)
    explore.explore(run)
    fit_prior.fit_prior(
        run.with_config(
            configuration.from_dict(
                config.to_dict(), {"prior.kind": "mixture", "prior.num_components": 3}
            ),
            ("prior",),
        ),
        tmp_path / "runs" / "fitted",
    )
    report.write_report(tmp_path / "runs")
    printed = capsys.readouterr()
    assert "not analyzed" not in printed.out and "cannot be shown" not in printed.out
    assert "regression" not in printed.err and "RuntimeWarning" not in printed.err
    assert "| a |" in (tmp_path / "runs" / "report.md").read_text()
