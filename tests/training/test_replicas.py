"""Several seeds in one program: each is the single run of its seed, in all modes."""

import json
import re

import jax
import numpy as np
import pytest

from tests.reading import rows_without_timing
from vae_jax import evaluate, train
from vae_jax.training import run_directory, steps

SEED = 5
NUM_REPLICAS = 2


@pytest.fixture
def config(small_config):
    small_config.seed = SEED
    small_config.train.num_replicas = NUM_REPLICAS
    # Larger steps amplify the order of float additions beyond a thousandth on some processors.
    small_config.train.learning_rate = 0.001
    # The data order, the dropout and the binarization of each must be its own.
    small_config.data.binarization = "dynamic"
    small_config.decoder.dropout_rate = 0.2
    small_config.decoder.dropout_after = (0,)
    # At stride 1 and with many channels a layer takes its other form.
    small_config.decoder.filters = (6, 4, 4)
    small_config.decoder.strides = (2, 1, 2)
    return small_config


@pytest.fixture(scope="module")
def shared_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def assert_close(actual, expected, rtol):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=rtol, err_msg=name)


def test_each_replica_begins_as_the_single_run_of_its_seed(config):
    settings = evaluate.step_settings(config)
    states = steps.initial_state(settings, SEED)
    config.train.num_replicas = 1
    alone = evaluate.step_settings(config)
    for index in range(NUM_REPLICAS):
        single = steps.initial_state(alone, SEED + index)
        replica = steps.replica(states, index)
        np.testing.assert_array_equal(
            *map(jax.random.key_data, (replica.root_key, single.root_key))
        )
        jax.tree.map(np.testing.assert_array_equal, replica.params, single.params)
        np.testing.assert_array_equal(
            steps.epoch_order(settings, states.root_key, 3, 50)[index],
            steps.epoch_order(alone, single.root_key, 3, 50),
        )


def test_initialization_makes_no_batch_of_matrices_to_decompose(config):
    # Several such batches at once can wait for each other for ever (jaxlib 0.10, 0.11).
    settings = evaluate.step_settings(config)
    seeds = np.arange(NUM_REPLICAS, dtype=np.uint32)
    text = steps._initial_state.lower(settings, seeds).as_text()
    calls = [line for line in text.splitlines() if "custom_call" in line and "geqrf" in line]
    shapes = [re.search(r": \(tensor<([0-9x]+)xf32>", line)[1] for line in calls]
    assert shapes
    assert all(shape.count("x") == 1 for shape in shapes), shapes


def test_the_highest_seed(config):
    settings = evaluate.step_settings(config)
    states = steps.initial_state(settings, 2**32 - NUM_REPLICAS)
    last = jax.random.key_data(states.root_key[-1])
    np.testing.assert_array_equal(last, jax.random.key_data(jax.random.key(2**32 - 1)))


def test_each_replica_is_the_single_run_of_its_seed(config, shared_dir, capsys):
    together = shared_dir / "together"
    train.train_and_evaluate(config, together)
    output = capsys.readouterr().out
    assert "2 seeds: validation" in output
    assert "±" in output
    config.train.num_replicas = 1
    for index in range(NUM_REPLICAS):
        config.seed = SEED + index
        single = shared_dir / f"single_{index}"
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
        assert {path.name for path in replica.iterdir()} >= {"figures", "metrics.csv"}
        assert list(replica.glob("events.out.tfevents.*"))


def test_the_run_has_means_and_standard_deviations(shared_dir):
    together = shared_dir / "together"
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
    assert (together / "figures" / "loss_curves.png").exists()


def test_all_modes_see_every_replica(config, shared_dir, capsys):
    together = shared_dir / "together"
    folders = run_directory.replica_folders(together, SEED, NUM_REPLICAS)
    before = [(folder / "summary.json").read_bytes() for folder in [together, *folders]]
    evaluate.sample(config, together)
    first, second = (np.load(folder / "samples.npy") for folder in folders)
    assert first.shape == second.shape == (100, 28, 28)
    assert np.any(first != second)
    evaluate.interpolate(config, together)
    assert capsys.readouterr().out.count("interpolation.png") == NUM_REPLICAS
    evaluate.evaluate(config, together)
    assert [(folder / "summary.json").read_bytes() for folder in [together, *folders]] == before
    train.train_and_evaluate(config, together)
    assert "the run is complete" in capsys.readouterr().out


def test_an_interrupted_run_ends_as_if_it_had_not_been(config, shared_dir, interrupt_save_of_step):
    workdir, whole = shared_dir / "interrupted", shared_dir / "together"
    interrupt_save_of_step(80)  # the rows of epoch 2 are written, its checkpoint is not
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(config, workdir)
    train.train_and_evaluate(config, workdir)
    for folder in (".", *(f"replicas/seed_{SEED + index}" for index in range(NUM_REPLICAS))):
        assert rows_without_timing(workdir / folder) == rows_without_timing(whole / folder)
