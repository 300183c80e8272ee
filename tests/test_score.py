"""Mode `score`: a table of likelihoods, least likely first; and log p(x) in mode `evaluate`."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import vae_jax
from tests.support.common import error_of
from vae_jax import datasets, evaluate, score, train
from vae_jax.evaluation import log_likelihood
from vae_jax.training.run_directory import RunDirectory

COLUMNS = ["negative_elbo", "log_likelihood", "effective_sample_size"]


@pytest.fixture(autouse=True)
def samples_one_by_one(monkeypatch):
    """One program serves any number of samples."""
    monkeypatch.setattr(log_likelihood, "_SAMPLES_PER_CALL", 1)


@pytest.fixture(scope="module")
def binarized_run(make_once, make_tiny_config, compilation_cache):
    """A short run on binarized pixels, to be read and not written to."""
    config = make_tiny_config(**{"data.binarization": "dynamic"})
    path = make_once("binarized", lambda path: train.train_and_evaluate(config, path))
    return RunDirectory.open(path)


@pytest.fixture(scope="module")
def digits(binarized_run):
    """Test images of that run, `<uint8>[n, 8, 8, 1]`."""
    return datasets.load(**binarized_run.config.data).test.images


def read_scores(folder):
    """Reads the names and the numbers of a table, `<float>[n, 3]`."""
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", *COLUMNS]
    return [row[0] for row in rows], np.array([row[1:] for row in rows], float)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*effective sample size below 2")
def test_own_images_are_ranked_by_file_name(binarized_run, digits, tmp_path, capsys):
    digits = np.where(digits[:3, ..., 0] > 127, 255, 0)
    pictures = {"a.png": digits[0], "b, b.png": digits[1], "inverted.png": 255 - digits[2]}
    (tmp_path / "in").mkdir()
    for name, image in pictures.items():
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "in" / name)
    score.score(binarized_run, tmp_path / "out", input=tmp_path / "in", num_samples=30)
    output = capsys.readouterr()
    names, numbers = read_scores(tmp_path / "out")
    images = np.stack([pictures[name] for name in names]).astype(np.uint8)
    vae = vae_jax.load_run(binarized_run)
    scores = vae.score(images, num_samples=30, seed=vae.seed)
    for column, name in enumerate(COLUMNS):
        np.testing.assert_allclose(numbers[:, column], scores[name], rtol=1e-3)
    assert names[0] == "inverted.png"
    assert sorted(names) == sorted(pictures)
    assert (np.diff(numbers[:, 1]) > 0).all()
    assert f"the least likely is inverted.png (log p(x) {numbers[0, 1]:.2f})" in output.out
    assert "of 3 images have an effective sample size below 2" in output.err


@pytest.mark.slow
def test_images_without_names_are_named_by_split_and_row(binarized_run, digits, tmp_path):
    score.score(binarized_run, tmp_path, num_samples=2)
    names, numbers = read_scores(tmp_path)
    assert sorted(names) == sorted(f"test/{row}" for row in range(30))
    assert (np.diff(numbers[:, 1]) >= 0).all()
    np.savez(tmp_path / "in.npz", images=np.where(digits[:2] > 127, 255, 0).astype(np.uint8))
    score.score(binarized_run, tmp_path, input=tmp_path / "in.npz", num_samples=2)
    assert sorted(read_scores(tmp_path)[0]) == ["0", "1"]


@pytest.mark.slow
def test_gray_pixels_are_scored_by_a_run_on_gray_pixels_alone(binarized_run, tiny_run, tmp_path):
    run = RunDirectory.open(tiny_run)
    images = datasets.load(**run.config.data).test.images[:4]
    np.savez(tmp_path / "in.npz", images=images)
    num_gray = np.count_nonzero((images > 0) & (images < 255))
    error = error_of(score.score, binarized_run, tmp_path, input=tmp_path / "in.npz")
    assert f"--input has {num_gray} gray pixels" in error
    assert not (tmp_path / "scores.csv").exists()
    score.score(run, tmp_path, input=tmp_path / "in.npz", num_samples=200)
    names, numbers = read_scores(tmp_path)
    # The bound of a single sample is the loss: cross-entropy and KL.
    vae = vae_jax.load_run(tiny_run)
    shown = images[[int(name) for name in names]] / 255.0
    mean = vae.reconstruct(shown)
    mean_loss = -(shown * np.log(mean) + (1 - shown) * np.log1p(-mean)).sum((1, 2, 3))
    means, log_vars = vae.encode(shown)
    kl = 0.5 * (np.exp(log_vars) + means**2 - 1.0 - log_vars).sum(1)
    np.testing.assert_allclose(numbers[:, 0], mean_loss + kl, rtol=0.05)
    assert (numbers[:, 1] > -numbers[:, 0]).all()


@pytest.mark.slow
def test_evaluate_measures_the_likelihood(binarized_run, tmp_path, capsys):
    # The number of samples does not identify the run: it may differ.
    run = binarized_run.with_overrides({"evaluate.num_importance_samples": 20})
    evaluate.evaluate(run, tmp_path)
    summary, evaluation = (
        json.loads((tmp_path / name).read_text()) for name in ("summary.json", "evaluation.json")
    )
    measured = evaluation["likelihood"]
    assert (measured["num_images"], measured["num_importance_samples"]) == (30, 20)
    # Twenty samples an image against one, and their KL in closed form: the same bound.
    assert measured["negative_elbo"] == pytest.approx(summary["test"]["loss"], abs=1.0)
    assert measured["negative_log_likelihood"] < measured["negative_elbo"] - 0.1
    assert 1.0 < measured["effective_sample_size"] < 20.0
    assert f"-log p(x) {measured['negative_log_likelihood']:.2f} ±" in capsys.readouterr().out
    posterior = evaluation["posterior"]
    assert sum(posterior["kl_per_dimension"]) == pytest.approx(summary["test"]["kl"], rel=1e-4)
