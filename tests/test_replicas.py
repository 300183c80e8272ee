"""Several seeds in one program: each is the single run of its seed, in all modes."""

import json
import operator
import re

import jax
import numpy as np
import pytest

import vae_jax
from tests.support.common import assert_trees_equal, make_small_config, settings_of
from tests.support.reading import rows_without_timing
from vae_jax import datasets, evaluate, explore, interpolate, sample, train
from vae_jax.evaluation.measures import SUMMARY_NAME, Summary
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.model.structs import Batch
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import read_record
from vae_jax.training import steps
from vae_jax.training.batches import to_batch
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.validation import evaluate_split

pytestmark = pytest.mark.slow

SEED = 5
NUM_REPLICAS = 2


def make_config():
    small_config = make_small_config()
    small_config.seed = SEED
    small_config.train.num_replicas = NUM_REPLICAS
    # Larger steps amplify the order of float additions beyond a thousandth on some processors.
    small_config.train.learning_rate = 0.001
    # The data order, the dropout and the binarization of each must be its own.
    small_config.data.binarization = "dynamic"
    small_config.decoder.dropout_rate = 0.2
    small_config.decoder.dropout_after = (0,)
    # What is evaluated is an average; it resumes too.
    small_config.train.ema_decay = 0.95
    small_config.train.learning_rate_schedule = "cosine"
    small_config.train.max_gradient_norm = 100.0
    small_config.train.weight_decay = 0.01
    # At stride 1 and with many channels a layer takes its other form.
    small_config.decoder.filters = (6, 4, 4)
    small_config.decoder.strides = (2, 1, 2)
    return small_config


@pytest.fixture
def config():
    return make_config()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A run of both seeds."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    train.train_and_evaluate(make_config(), workdir)
    return workdir


def assert_close(actual, expected, rtol):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=rtol, err_msg=name)


def test_each_replica_begins_and_steps_as_the_single_run_of_its_seed(config):
    config.encoder.kind = "lstm"
    config.decoder.filters, config.decoder.strides = (4,), (4,)
    settings = settings_of(config)
    states = steps.initial_state(settings, SEED)
    config.train.num_replicas = 1
    alone = settings_of(config)
    for index in range(NUM_REPLICAS):
        single = steps.initial_state(alone, SEED + index)
        replica = jax.tree.map(operator.itemgetter(index), states)
        np.testing.assert_array_equal(
            *map(jax.random.key_data, (replica.root_key, single.root_key))
        )
        jax.tree.map(np.testing.assert_array_equal, replica.params, single.params)
        np.testing.assert_array_equal(
            steps.epoch_order(settings, states.root_key, 3, 50)[index],
            steps.epoch_order(alone, single.root_key, 3, 50),
        )
    images = np.stack([datasets.load("mnist_5k").train.images[:100]] * NUM_REPLICAS)
    single, single_metrics = steps.train_step(alone, single, Batch(images[-1]))
    states, metrics = steps.train_step(settings, states, Batch(images))
    for name, expected in (single_metrics.sums | single_metrics.numbers).items():
        found = (metrics.sums | metrics.numbers)[name][-1]
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)
    jax.tree.map(
        lambda stepped, expected: np.testing.assert_allclose(stepped[-1], expected, atol=1e-4),
        states.params,
        single.params,
    )


def test_initialization_makes_no_batch_of_matrices_to_decompose(config):
    config.encoder.kind = "lstm"
    # Several such batches at once can wait for each other for ever (jaxlib 0.10, 0.11).
    settings = settings_of(config)
    seeds = np.arange(NUM_REPLICAS, dtype=np.uint32)
    text = steps._initial_state.lower(settings, seeds).as_text()
    calls = [line for line in text.splitlines() if "custom_call" in line and "geqrf" in line]
    shapes = [re.search(r": \(tensor<([0-9x]+)xf32>", line)[1] for line in calls]
    assert shapes
    assert all(shape.count("x") == 1 for shape in shapes), shapes


def test_the_highest_seed(config):
    settings = settings_of(config)
    states = steps.initial_state(settings, 2**32 - NUM_REPLICAS)
    last = jax.random.key_data(states.root_key[-1])
    np.testing.assert_array_equal(last, jax.random.key_data(jax.random.key(2**32 - 1)))


def test_each_replica_is_the_single_run_of_its_seed(config, together, tmp_path):
    config.train.num_replicas = 1
    for index in range(NUM_REPLICAS):
        config.seed = SEED + index
        single = tmp_path / f"single_{index}"
        train.train_and_evaluate(config, single)
        replica = together / "replicas" / f"seed_{config.seed}"
        for actual, expected in zip(
            rows_without_timing(replica), rows_without_timing(single), strict=True
        ):
            assert_close(actual, expected, rtol=1e-3)
        actual, expected = (
            json.loads((folder / "summary.json").read_text()) for folder in (replica, single)
        )
        assert actual["seed"] == expected["seed"] == config.seed
        if actual["best_epoch"] == expected["best_epoch"]:
            assert_close(actual["test"], expected["test"], rtol=1e-3)
        assert {path.name for path in replica.iterdir()} >= {"plots", "metrics.csv"}
        assert list(replica.glob("events.out.tfevents.*"))


def test_the_run_has_means_and_standard_deviations(config, together, capsys):
    train.train_and_evaluate(config, together)
    output = capsys.readouterr().out
    assert "the run is complete; best epoch" in output
    assert "2 seeds: validation" in output
    assert "±" in output
    each = [
        rows_without_timing(together / "replicas" / f"seed_{SEED + i}") for i in range(NUM_REPLICAS)
    ]
    combined = rows_without_timing(together)
    assert [row["epoch"] for row in combined] == [1, 2]
    for row, first, second in zip(combined, *each, strict=True):
        assert first["train_loss"] != second["train_loss"]
        for name in first:
            np.testing.assert_allclose(row[name], (first[name] + second[name]) / 2, rtol=1e-12)
        # Of two values the sample standard deviation is their distance over sqrt(2).
        expected = abs(first["validation_kl"] - second["validation_kl"]) / np.sqrt(2)
        np.testing.assert_allclose(row["validation_kl_std"], expected, rtol=1e-9)
    summary = json.loads((together / "summary.json").read_text())
    assert summary["seeds"] == [SEED, SEED + 1]
    losses = [
        json.loads((together / "replicas" / f"seed_{seed}" / "summary.json").read_text())["test"]
        for seed in summary["seeds"]
    ]
    np.testing.assert_allclose(summary["test"]["kl"], np.mean([loss["kl"] for loss in losses]))
    expected = np.std([loss["kl"] for loss in losses], ddof=1)
    np.testing.assert_allclose(summary["test_std"]["kl"], expected)
    assert (together / "plots" / "loss_curves.png").exists()


def test_from_python_a_run_of_several_seeds_is_the_model_of_the_first(config, together):
    vae = vae_jax.train_run(config, together)
    assert vae.seed == SEED
    assert_trees_equal(vae.params, vae_jax.load_run(together, seed=SEED).params)
    with pytest.raises(UserError, match=f"holds seed {SEED}, {SEED + 1}; give one of them as seed"):
        vae_jax.load_run(together)


def test_all_modes_see_every_replica(config, together, tmp_path, capsys):
    run = RunDirectory.open(together)
    folders = run.replica_folders
    before = [(folder / "summary.json").read_bytes() for folder in [together, *folders]]
    sample.sample(run)
    first, second = (np.load(folder / "samples.npy") for folder in folders)
    assert first.shape == second.shape == (100, 28, 28, 1)
    assert np.any(first != second)
    interpolate.interpolate(run)
    assert capsys.readouterr().out.count("interpolation.png") == NUM_REPLICAS
    explore.explore(run, tmp_path)
    pages = [tmp_path / folder.relative_to(together) / "explorer.html" for folder in folders]
    for index, page in enumerate(pages):
        assert f"seed {SEED + index}." in page.read_text()
    evaluate.evaluate(run)
    assert [(folder / "summary.json").read_bytes() for folder in [together, *folders]] == before
    train.train_and_evaluate(config, together)
    assert "the run is complete" in capsys.readouterr().out


def test_an_interrupted_run_ends_as_if_it_had_not_been(
    config, together, tmp_path, interrupt_save_of_step
):
    workdir, whole = tmp_path / "interrupted", together
    interrupt_save_of_step(80)  # the rows of epoch 2 are written, its checkpoint is not
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(config, workdir)
    train.train_and_evaluate(config, workdir)
    for folder in (".", *(f"replicas/seed_{SEED + index}" for index in range(NUM_REPLICAS))):
        assert rows_without_timing(workdir / folder) == rows_without_timing(whole / folder)


def test_the_averages_are_what_is_evaluated(config, together):
    first = restore_best(RunDirectory.open(together)).replicas[0]
    data = to_batch(datasets.load(**config.data).validation)
    summary = read_record(first.folder / SUMMARY_NAME, Summary)
    [measured] = evaluate_split(first.settings, first.params, first.root_key, data)
    assert measured == pytest.approx(summary.validation, rel=1e-6)
    assert summary.best_epoch == 2
    with Checkpoints(together, read_only=True) as checkpoints:
        like = steps.abstract_state(settings_of(config))
        state, _ = checkpoints.restore_latest(like, devices.single_device())
    for name, params in (("averages", state.average.params), ("others", state.params)):
        replica = jax.tree.map(operator.itemgetter(0), params)
        same = jax.tree.map(np.array_equal, first.params, replica)
        assert all(jax.tree.leaves(same)) == (name == "averages")
