"""Mode `score`: a table of likelihoods, least likely first; and its warning in mode `evaluate`."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import vae_jax
from tests.support.common import error_of, make_small_config
from vae_jax import datasets, evaluate, modes, score, train
from vae_jax.evaluation import log_likelihood
from vae_jax.model.rng_streams import make_root_key
from vae_jax.training.run_directory import RunDirectory

COLUMNS = ["name", "negative_elbo", "log_likelihood", "effective_sample_size"]


@pytest.fixture(scope="module")
def binarized_run(make_once, compilation_cache):
    """A short run on binarized pixels, to be read and not written to."""
    config = make_small_config()
    config.data.binarization = "dynamic"
    config.train.num_epochs = 1
    return make_once("binarized", lambda path: train.train_and_evaluate(config, path))


def read_scores(folder):
    """Reads the names and the numbers of a table, `<float>[n, 3]`."""
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == COLUMNS
    return [row[0] for row in rows], np.array([row[1:] for row in rows], float)


def test_own_images_are_ranked_by_file_name(binarized_run, tmp_path, capsys):
    digits = np.where(datasets.load("mnist_5k").test.images[:3, ..., 0] > 127, 255, 0)
    pictures = {"a.png": digits[0], "b, b.png": digits[1], "inverted.png": 255 - digits[2]}
    folder = tmp_path / "in"
    folder.mkdir()
    for name, image in pictures.items():
        Image.fromarray(image.astype(np.uint8)).save(folder / name)
    run = RunDirectory.open(binarized_run)
    score.score(run, folder, tmp_path / "out", num_samples=30)
    output = capsys.readouterr()
    names, numbers = read_scores(tmp_path / "out")
    vae = vae_jax.load_run(binarized_run)
    images = np.stack([pictures[name] for name in names]).astype(np.uint8)
    scores = log_likelihood.estimate(
        *(vae.model, vae.params, make_root_key(vae.seed)),
        vae_jax.Batch(images[..., None]),
        30,
        indices=log_likelihood.indices_by_pixels(images),
    ).to_scores()
    for column, name in enumerate(COLUMNS[1:]):
        np.testing.assert_allclose(numbers[:, column], scores[name], rtol=1e-3)
    assert names[0] == "inverted.png"
    assert sorted(names) == sorted(pictures)
    assert (np.diff(numbers[:, 1]) > 0).all()
    last = output.out.splitlines()[-1]
    assert last == (
        f"wrote {tmp_path / 'out' / 'scores.csv'}: 3 images, the least likely is inverted.png "
        f"(log p(x) {numbers[0, 1]:.2f})"
    )
    assert "of 3 images have an effective sample size below 2" in output.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"scores.csv", ".vae_jax_output"}


def test_the_runs_test_images_are_named_by_split_and_row(binarized_run, tmp_path):
    score.score(RunDirectory.open(binarized_run), output=tmp_path, num_samples=2)
    names, numbers = read_scores(tmp_path)
    assert sorted(names) == sorted(f"test/{row}" for row in range(500))
    assert (np.diff(numbers[:, 1]) >= 0).all()


def test_arrays_without_names_are_named_by_row(binarized_run, tmp_path):
    images = datasets.load("mnist_5k").test.images[:2] > 127
    np.savez(tmp_path / "in.npz", images=np.where(images, 255, 0).astype(np.uint8))
    score.score(RunDirectory.open(binarized_run), tmp_path / "in.npz", tmp_path, num_samples=2)
    assert sorted(read_scores(tmp_path)[0]) == ["0", "1"]


def test_gray_pixels_are_scored_by_a_run_on_gray_pixels_alone(
    binarized_run, trained_run, tmp_path, capsys
):
    images = datasets.load("mnist_5k").test.images[:4]
    np.savez(tmp_path / "in.npz", images=images)
    num_gray = np.count_nonzero((images > 0) & (images < 255))
    assert error_of(
        score.score, RunDirectory.open(binarized_run), tmp_path / "in.npz", tmp_path
    ) == (
        f"--input has {num_gray} gray pixels, and the run was trained on binarized ones: a "
        "Bernoulli has no likelihood of them; make them black or white (0 or 255)"
    )
    assert not (tmp_path / "scores.csv").exists()
    score.score(RunDirectory.open(trained_run), tmp_path / "in.npz", tmp_path, num_samples=200)
    assert "log_likelihood is the bound that it was trained with" in capsys.readouterr().out
    names, numbers = read_scores(tmp_path)
    # The bound of a single sample is the loss: cross-entropy and KL.
    vae = vae_jax.load_run(trained_run)
    shown = images[[int(name) for name in names]] / 255.0
    mean = vae.reconstruct(shown)
    mean_loss = -(shown * np.log(mean) + (1 - shown) * np.log1p(-mean)).sum((1, 2, 3))
    means, log_vars = vae.encode(shown)
    kl = 0.5 * (np.exp(log_vars) + means**2 - 1.0 - log_vars).sum(1)
    assert (numbers[:, 0] > mean_loss).all()
    np.testing.assert_allclose(numbers[:, 0], mean_loss + kl, rtol=0.15)
    assert (numbers[:, 1] > -numbers[:, 0]).all()


def test_the_mode_has_its_flags():
    mode = modes.get_mode("score")
    assert modes.MODES["score"] == modes.RUN
    arguments = ["--num_samples=7", "--input=a", "--output=b"]
    assert mode.parse(arguments) == {"num_samples": 7, "input": "a", "output": "b"}


@pytest.mark.parametrize("num_doubtful", [50, 51])
def test_evaluate_warns_where_single_samples_carry_the_mean(
    binarized_run, tmp_path, monkeypatch, capsys, num_doubtful
):
    sizes = np.where(np.arange(500) < num_doubtful, 1.5, 9.0)
    values = np.full(500, -120.0)
    monkeypatch.setattr(
        log_likelihood,
        "estimate",
        lambda *_, **__: log_likelihood.Likelihoods(values, values - 270.0, sizes),
    )
    evaluate.evaluate(RunDirectory.open(binarized_run), tmp_path)
    measured = json.loads((tmp_path / "evaluation.json").read_text())["likelihood"]
    assert measured["negative_log_likelihood"] == 120.0
    warning = (
        f"warning: {tmp_path}: 51 of 500 images have an effective sample size below 2: their log "
        "p(x) is a lower bound that a single sample carries, and more than 100 samples would "
        "raise it\n"
    )
    assert (warning in capsys.readouterr().err) == (num_doubtful == 51)
