"""Runs and models that ship open in every mode of a version with more fields and measures."""

import concurrent.futures
import dataclasses
import functools
import shutil

import jax
import numpy as np
import pytest

import vae_jax
from tests.support.common import ROOT, needs_mnist
from vae_jax import (
    configuration,
    datasets,
    evaluate,
    explore,
    modes,
    report,
    shipped_configs,
    train,
)
from vae_jax.evaluation import programs
from vae_jax.evaluation.measures import EVALUATION_NAME, SUMMARY_NAME, Evaluation, Summary
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.model import losses, objective
from vae_jax.runtime.files import read_json, read_record
from vae_jax.runtime.interrupts import Interrupted
from vae_jax.training import run_directory, trainer
from vae_jax.training.batches import to_batch
from vae_jax.training.metrics import read_rows
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.validation import evaluate_split

# Runs and trained models that ship with the repository.
RUNS = [*ROOT.glob("models/*"), *(path.parent for path in ROOT.glob("docs/runs/*/config.json"))]


def with_fields(get_config):
    """Adds a field to a group of every configuration, and a group."""

    def wrapped(*arguments):
        config = get_config(*arguments)
        config.train.extra = 0.5
        config.extra = {"kind": "none"}
        return config

    return wrapped


def with_term(function):
    """Adds a term to those of a loss."""

    def wrapped(*arguments):
        terms = function(*arguments)
        return {**terms, "extra": 2.0 * terms["kl"]}

    return wrapped


@pytest.fixture
def newer(monkeypatch):
    """Makes this process that of a version with these."""
    for owner, name, wrap in (
        (shipped_configs, "get_config", with_fields),
        (losses, "negative_elbo", with_term),
        (objective, "_importance_weighted_terms", with_term),
    ):
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))
    jax.clear_caches()  # of what the other version compiled
    yield
    jax.clear_caches()


@pytest.mark.parametrize("folder", RUNS, ids=lambda path: path.name)
def test_every_run_that_ships_opens(newer, folder):
    run = RunDirectory.open(folder)
    fields = configuration.flatten(run.config.to_dict())
    recorded = configuration.flatten(run.record["config"])
    assert {name: fields[name] for name in recorded} == recorded
    younger = {name: fields[name] for name in fields.keys() - recorded.keys()}
    assert younger.items() >= {"train.extra": 0.5, "extra.kind": "none"}.items()
    assert younger == {name: configuration.default_fields()[name] for name in younger}
    run_directory.check_resumes(run, run.with_overrides({"sample.pixels": True}).config)


FLAGSHIPS = [
    pytest.param(name, marks=pytest.mark.nightly) for name in ("flagship", "convolutional_flagship")
]
# The files of each mode that needs no data but the images that it is given.
FILES = {
    "sample": ("samples.npy", "samples", "plots/samples.png"),
    "encode": ("latents.npz",),
    "reconstruct": ("reconstructions.npy", "reconstructions"),
    "interpolate": ("plots/interpolation.png",),
    "score": ("scores.csv",),
    "export": ("export/encoder.stablehlo", "export/decoder.stablehlo", "export/README.md"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "conditional", *FLAGSHIPS])
def test_every_model_that_ships_is_used(newer, name, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "has_onnx", lambda: False)  # which takes a minute
    digits = datasets.load("mnist_5k").test[np.arange(0, 480, 40)]
    # In black and white, of which every model has a likelihood.
    images = np.uint8(255) * (digits.images > 127)
    np.savez(tmp_path / "digits.npz", images=images, labels=digits.labels)
    arguments = {"input": tmp_path / "digits.npz", "output": tmp_path, "num": 4, "num_samples": 5}
    for mode, files in FILES.items():
        module = modes.get_mode(mode)
        given = {key: arguments[key] for key in arguments if key in module.flags}
        module.function(RunDirectory.open(ROOT / "models" / name), **given)
        assert [file for file in files if not (tmp_path / file).exists()] == [], mode
    reconstructions = np.load(tmp_path / "reconstructions.npy")
    assert np.square(reconstructions - images / 255.0).mean() < 0.05


@pytest.mark.parametrize(
    ("name", "max_bytes"), [("flagship", 12e6), ("convolutional_flagship", 12e6), ("small", 5e6)]
)
def test_a_model_that_ships_is_of_its_configuration(name, max_bytes):
    run = RunDirectory.open(ROOT / "models" / name)
    run.with_config(shipped_configs.get_config(name))
    assert (run.path / "weights.safetensors").stat().st_size < max_bytes


@needs_mnist
@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", *FLAGSHIPS])
def test_the_test_loss_is_that_of_the_record(prepared_mnist, name):
    run = RunDirectory.open(ROOT / "models" / name)
    run = run.with_overrides({"data.data_dir": prepared_mnist})
    replica = restore_best(run).replicas[0]
    data = to_batch(datasets.load(**run.config.data).test)
    summary = read_record(run.path / SUMMARY_NAME, Summary)
    [terms] = evaluate_split(replica.settings, replica.params, replica.root_key, data)
    assert terms == pytest.approx(summary.test, abs=1e-3)
    assert replica.epoch == summary.best_epoch


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:.*effective sample size below 2")
def test_threads_of_a_program_get_the_numbers_of_one():
    """With our flags, two XLA programs side by side gave others, for 9 of 200 images."""
    vae = vae_jax.load_run(ROOT / "models" / "flagship")
    halves = np.split(datasets.load("mnist_5k").test.images[:400] > 127, 2)
    estimate = functools.partial(vae.log_likelihood, num_samples=50)
    expected = [*map(estimate, halves)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        np.testing.assert_array_equal([*pool.map(estimate, halves * 2)], expected * 2)


@pytest.mark.nightly
@needs_mnist
@pytest.mark.parametrize("name", ["small", "conditional", *FLAGSHIPS])
def test_every_model_that_ships_is_evaluated(newer, name, prepared_mnist, tmp_path, monkeypatch):
    fields = {"data.data_dir": prepared_mnist, "evaluate.num_importance_samples": 2}
    run = RunDirectory.open(ROOT / "models" / name).with_overrides(fields)
    whole = datasets.load(**run.config.data)
    splits = {name: getattr(whole, name)[:200] for name in ("train", "validation", "test")}
    some = dataclasses.replace(whole, **splits)
    monkeypatch.setattr(datasets, "load", lambda **data: some)
    evaluate.evaluate(run, tmp_path)
    explore.explore(run, tmp_path)
    assert (tmp_path / "explorer.html").stat().st_size > 1e5
    terms = read_record(tmp_path / SUMMARY_NAME, Summary).test
    assert terms["extra"] == pytest.approx(2.0 * terms["kl"])
    classes = read_record(tmp_path / EVALUATION_NAME, Evaluation).conditional
    assert (classes is not None) == (name == "conditional")
    assert not classes or min(classes.bayes_accuracy, classes.sample_accuracy) > 0.8


@pytest.mark.slow
def test_the_runs_that_ship_are_reported(newer, tmp_path, capsys):
    shutil.copytree(ROOT / "docs/runs", tmp_path / "runs")
    report.write_report(tmp_path / "runs")
    # Nothing is measured anew or left out: the pages are written, and no more is said.
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"wrote {tmp_path}/runs/report.{suffix}" for suffix in ("html", "md")]
    page = (tmp_path / "runs" / "report.md").read_text()
    assert all(folder.name in page for folder in RUNS if folder.parent.name == "runs")


def longer(workdir, num_epochs):
    """The configuration of a run, as this version reads it, with another number of epochs."""
    config = RunDirectory.open(workdir).config
    config.train.num_epochs = num_epochs
    return config


@pytest.mark.slow
def test_a_run_goes_on_amid_an_epoch(tiny_run, tmp_path, monkeypatch, capsys, request):
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run, workdir)
    before = read_rows(workdir / "metrics.csv")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_CHUNK_SECONDS", 0.0)  # a step each
        patch.setattr(trainer.Trainer, "_should_stop", lambda self: True)
        with pytest.raises(Interrupted, match="saved after step 15, epoch 2 of 3 and a part"):
            train.train_and_evaluate(longer(workdir, 3), workdir)
    assert "extra" not in read_json(workdir / "config.json")["config"]
    request.getfixturevalue("newer")
    train.train_and_evaluate(longer(workdir, 4), workdir)
    assert "resuming after step 15, epoch 2 of 4" in capsys.readouterr().out
    train.train_and_evaluate(longer(workdir, 4), workdir)
    assert "the run is complete" in capsys.readouterr().out
    *first, third, fourth = read_rows(workdir / "metrics.csv")
    assert first == before
    assert "train_extra" not in third  # its first step did not measure it
    assert third.keys() | {"train_extra"} == fourth.keys()
    assert fourth["train_extra"] == pytest.approx(2.0 * fourth["train_kl"], rel=1e-5)
    assert fourth["validation_extra"] == pytest.approx(2.0 * fourth["validation_kl"])
    summary = read_record(workdir / SUMMARY_NAME, Summary)
    assert summary.epochs_trained == 4
    assert summary.test["extra"] == pytest.approx(2.0 * summary.test["kl"])
