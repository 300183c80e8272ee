"""Batches divided over two devices: the steps of one device, to float tolerance."""

import dataclasses
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

from tests.support.common import ROOT, assert_trees_equal, make_small_config
from vae_jax.datasets import DataSpec
from vae_jax.model.structs import Batch
from vae_jax.runtime import compilation, devices
from vae_jax.training import steps, streaming, trainer
from vae_jax.training.settings import train_settings
from vae_jax.training.validation import evaluate_split

pytestmark = pytest.mark.nightly

DROPOUT = {"decoder.dropout_rate": 0.5, "decoder.dropout_after": (0,)}
CASES = {
    "binarized": DROPOUT
    | {"data.binarization": "dynamic", "loss.free_bits": 0.03}
    | {"train.ema_decay": 0.9, "train.max_gradient_norm": 1.0},
    "importance samples": DROPOUT | {"loss.num_importance_samples": 3, "loss.path_gradient": True},
    "replicas": {"train.num_replicas": 3},
    "one part not finite": {"train.skip_nonfinite": True, "condition.kind": "label"},
}
STREAMED = ("binarized", "replicas")
ABNORMAL = 9  # label of the image whose loss is not finite


def loss_that_is_not_finite(settings, params, batch, root_key, step):
    loss, (terms, numbers) = steps._objective_loss(settings, params, batch, root_key, step)
    factor = jnp.where((batch.labels == ABNORMAL).any(), jnp.nan, 1.0)
    return loss * factor, (terms | {"loss": terms["loss"] * factor}, numbers)


def train(name, num_devices, on_device="true"):
    """Trains for an epoch; returns parameters, metrics of the steps and losses of validation."""
    config = make_small_config()
    config.update_from_flattened_dict({"train.batch_size": 10} | CASES[name])
    axes = (devices.REPLICA_AXIS, devices.DATA_AXIS)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:num_devices])[None], axes)
    classes = tuple("0123456789") if config.condition.kind == "label" else ()
    settings = train_settings(config, DataSpec((8, 8, 1), classes), 7, mesh)
    images = np.random.default_rng(0).integers(0, 256, (73, 8, 8, 1), np.uint8)
    labels = None
    if classes:
        labels = np.arange(73, dtype=np.int32) % ABNORMAL
        labels[40] = ABNORMAL
        settings = dataclasses.replace(settings, loss=loss_that_is_not_finite)
    data = Batch(images, labels)
    placed = streaming.place(data, on_device, 10, config.train.num_replicas, mesh)
    state = steps.initial_state(settings, 0)
    state, metrics = trainer.train_one_epoch(settings, state, placed, 1, tqdm(disable=True))
    num_divided = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        assert len(leaf.addressable_shards) == num_devices
        if settings.evaluation.is_divided(path):
            num_divided += 1
            assert leaf.addressable_shards[0].data.nbytes * num_devices == leaf.nbytes
        else:
            assert leaf.sharding.is_fully_replicated
            assert_trees_equal(*[leaf.addressable_shards[i].data for i in (0, -1)])
    # The head's kernel and its moments, unless gradients are clipped.
    assert num_divided == (0 if num_devices == 1 or config.train.max_gradient_norm else 3)
    params, key = state.evaluation_params, state.root_key
    return devices.to_host(params), metrics, evaluate_split(settings.evaluation, params, key, data)


def main(path):
    compilation.set_cpu_flags()  # as the command line does
    results = {}
    for name in CASES:
        results[name, 1] = train(name, 1)
        results[name, 2] = train(name, 2)
    for name in STREAMED:
        results[name, "streamed"] = train(name, 2, on_device="false")
    results["again"] = train("binarized", 2)
    with open(path, "wb") as file:
        pickle.dump(results, file)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of every case on one and on two devices, from one process."""
    path = tmp_path_factory.mktemp("division") / "results"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(path)]
    process = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return pickle.loads(path.read_bytes())


@pytest.mark.parametrize("name", CASES)
def test_two_devices_train_as_one(results, name):
    (params, metrics, means), (expected, expected_metrics, expected_means) = (
        results[name, num_devices] for num_devices in (2, 1)
    )
    for group in ("sums", "numbers"):
        values, expected_values = (getattr(m, group) for m in (metrics, expected_metrics))
        assert {*values} == {*expected_values}
        for key, value in values.items():
            np.testing.assert_allclose(value, expected_values[key], rtol=1e-4, err_msg=key)
    for mean, expected_mean in zip(means, expected_means, strict=True):
        assert mean == pytest.approx(expected_mean, rel=1e-4)
    # Adam makes a large difference of a tiny gradient's sign: not the largest difference.
    differences = jax.tree.map(lambda a, b: np.abs(a - b).mean(), params, expected)
    assert max(jax.tree.leaves(differences)) < 1e-5


def test_one_part_that_is_not_finite_skips_the_step_on_every_device(results):
    losses = results["one part not finite", 2][1].sums["loss"]
    assert np.isnan(losses).sum() == 1


@pytest.mark.parametrize("name", STREAMED)
def test_streamed_images_make_no_difference(results, name):
    assert_trees_equal(results[name, "streamed"][:2], results[name, 2][:2])


def test_two_devices_repeat_bit_for_bit(results):
    assert_trees_equal(results["again"][:2], results["binarized", 2][:2])
    assert results["again"][2] == results["binarized", 2][2]


if __name__ == "__main__":
    main(sys.argv[1])
