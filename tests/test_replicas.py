"""Several seeds in one program: each is the single run of its seed, in all modes."""

import re

import numpy as np
import pytest

import vae_jax
from tests.support.common import assert_trees_equal, error_of
from tests.support.processes import assert_same_training, rows_without_timing
from vae_jax import evaluate, explore, interpolate, sample, train
from vae_jax.runtime import division
from vae_jax.runtime.files import read_json
from vae_jax.training import steps
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import train_settings

pytestmark = pytest.mark.slow

SEED = 5
NUM_REPLICAS = 2
FIELDS = {
    "seed": SEED,
    "train.num_replicas": NUM_REPLICAS,
    # The data order, the dropout and the binarization of each must be its own.
    "data.binarization": "dynamic",
    "decoder.dropout_rate": 0.2,
    "decoder.dropout_after": (0,),
    # An average is evaluated; it resumes too.
    "train.ema_decay": 0.95,
    "train.learning_rate_schedule": "cosine",
    # At stride 1 and with many channels a layer takes its other form.
    "decoder.filters": (6, 4),
    "decoder.strides": (1, 4),
}


@pytest.fixture
def config(make_tiny_config):
    return make_tiny_config(**FIELDS)


@pytest.fixture(scope="module")
def together(make_tiny_config, tmp_path_factory):
    """A run of both seeds."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    train.train_and_evaluate(make_tiny_config(**FIELDS), workdir)
    return workdir


def test_initialization_makes_no_batch_of_matrices_to_decompose(config, together):
    # Several such batches at once can wait for each other forever (jaxlib 0.10, 0.11).
    config.encoder.kind = "lstm"
    mesh = division.make_mesh(NUM_REPLICAS, config.train.batch_size)
    settings = train_settings(config, RunDirectory.open(together).spec, 7, mesh)
    seeds = np.arange(NUM_REPLICAS, dtype=np.uint32)
    text = steps._initial_state.lower(settings, seeds).as_text()
    calls = [line for line in text.splitlines() if "custom_call" in line and "geqrf" in line]
    shapes = [re.search(r": \(tensor<([0-9x]+)xf32>", line)[1] for line in calls]
    assert shapes
    assert all(shape.count("x") == 1 for shape in shapes), shapes


def test_each_replica_is_the_single_run_of_its_seed(config, together, tmp_path, without_report):
    config.train.num_replicas = 1
    for config.seed in range(SEED, SEED + NUM_REPLICAS):
        single, replica = tmp_path / str(config.seed), together / f"replicas/seed_{config.seed}"
        train.train_and_evaluate(config, single)
        for row, expected in zip(*map(rows_without_timing, (replica, single)), strict=True):
            assert row == pytest.approx(expected, rel=1e-4)
        assert read_json(replica / "summary.json")["seed"] == config.seed
        assert (replica / "plots").exists()
        assert list(replica.glob("events.out.tfevents.*"))


def test_the_run_is_summarized_and_loaded(config, together, capsys):
    vae = vae_jax.train_run(config, together)
    output = capsys.readouterr().out
    assert "the run is complete" in output and "2 seeds: validation" in output and "±" in output
    # From Python it is the model of the first seed.
    assert_trees_equal(vae.params, vae_jax.load_run(together, seed=SEED).params)
    assert f"seed {SEED}, {SEED + 1}" in error_of(vae_jax.load_run, together)
    folders = RunDirectory.open(together).replica_folders
    summary = read_json(together / "summary.json")
    assert summary["seeds"] == [SEED, SEED + 1]
    kls = [read_json(folder / "summary.json")["test"]["kl"] for folder in folders]
    np.testing.assert_allclose(summary["test"]["kl"], np.mean(kls))
    np.testing.assert_allclose(summary["test_std"]["kl"], np.std(kls, ddof=1))
    assert (together / "plots" / "loss_curves.png").exists()


@pytest.mark.nightly
def test_all_modes_see_every_replica(together, tmp_path, capsys):
    run = RunDirectory.open(together)
    folders = run.replica_folders
    before = [(folder / "summary.json").read_bytes() for folder in [together, *folders]]
    sample.sample(run)
    first, second = (np.load(folder / "samples.npy") for folder in folders)
    assert first.shape == second.shape == (100, 8, 8, 1)
    assert np.any(first != second)
    interpolate.interpolate(run)
    assert capsys.readouterr().out.count("interpolation.png") == NUM_REPLICAS
    explore.explore(run, tmp_path)
    for index, folder in enumerate(folders):
        page = tmp_path / folder.relative_to(together) / "explorer.html"
        assert f"seed {SEED + index}." in page.read_text()
    evaluate.evaluate(run)
    assert [(folder / "summary.json").read_bytes() for folder in [together, *folders]] == before


def test_an_interrupted_run_ends_as_if_it_had_not_been(
    config, together, tmp_path, interrupt_save_of_step, without_report
):
    interrupt_save_of_step(14)  # the rows of epoch 2 are written, its checkpoint is not
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(config, tmp_path)
    train.train_and_evaluate(config, tmp_path)
    assert_same_training(tmp_path, together)
    for folder in (f"replicas/seed_{SEED + index}" for index in range(NUM_REPLICAS)):
        assert rows_without_timing(tmp_path / folder) == rows_without_timing(together / folder)
