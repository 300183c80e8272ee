"""Training images that are streamed: the same run as with all of them on the device."""

import time

import jax
import numpy as np
import pytest

from tests.support.common import assert_trees_equal, error_of, make_small_config
from tests.support.processes import rows_without_timing
from vae_jax import train
from vae_jax.datasets import image_arrays
from vae_jax.model.structs import Batch
from vae_jax.runtime import devices, division
from vae_jax.training import streaming, trainer
from vae_jax.training.checkpoints import Checkpoints, _read

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A file of 200 images of 8x8, which are read from it by rows."""
    monkeypatch.setattr(image_arrays, "_SMALL", 0)
    path = tmp_path / "images.npy"
    levels = np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8)
    np.save(path, levels)
    return path


def config_of(path, on_device, **fields):
    config = make_small_config()
    config.data.update(
        {"name": "images", "path": str(path), "data_dir": str(path.parent / "cache")}
        | {"validation_size": 20, "test_size": 20, "on_device": on_device}
    )
    config.encoder.dense_sizes = (8,)
    config.train.update({"batch_size": 10, "num_epochs": 2} | fields)
    return config


def arrays_of(workdir):
    """The arrays of the last checkpoint, without the time."""
    arrays = _read(Checkpoints(workdir)._paths()[0])
    return {name: array for name, array in arrays.items() if name != "progress"}


@pytest.mark.slow
@pytest.mark.parametrize("num_replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_streamed_run_has_the_same_bits(images, tmp_path, monkeypatch, num_replicas):
    monkeypatch.setattr(streaming, "_BLOCK_BYTES", 5 * 10 * 64 * num_replicas)  # 16 steps: 4 blocks
    runs = {}
    for on_device in ("true", "false"):
        workdir = tmp_path / on_device
        train.train_and_evaluate(config_of(images, on_device, num_replicas=num_replicas), workdir)
        runs[on_device] = arrays_of(workdir), rows_without_timing(workdir)
    assert_trees_equal(runs["true"][0], runs["false"][0])
    assert runs["true"][1] == runs["false"][1]


def test_a_block_has_the_images_of_its_steps_in_the_order_of_the_epoch():
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    data = Batch(images, np.arange(7, dtype=np.int32))
    streamed = streaming.StreamedData(data, 2, 1, division.make_mesh(1, 2))
    streamed.steps_per_block = 2
    order = jax.numpy.array([6, 2, 0, 1, 5, 4, 3])
    [(first, middle), (last, end)] = streamed.blocks(order, 0)
    np.testing.assert_array_equal(first.labels, [[6, 2], [0, 1]])
    np.testing.assert_array_equal(np.asarray(first.images)[..., 0, 0, 0], [[6, 2], [0, 1]])
    # The last image fills no batch, and the batches do not fill the last block.
    np.testing.assert_array_equal(last.labels[:1], [[5, 4]])
    assert (middle, end, last.labels.shape) == (2, 3, (2, 2))
    [(block, _)] = streamed.blocks(order, 2)
    np.testing.assert_array_equal(block.labels, last.labels)


@pytest.mark.parametrize(("free", "is_streamed"), [(1000, True), (1e9, False)])
def test_images_beyond_a_quarter_of_the_free_memory_are_streamed(
    monkeypatch, capsys, free, is_streamed
):
    monkeypatch.setattr(devices, "free_bytes", lambda _: free)
    data = Batch(np.zeros((8, 8, 8, 1), np.uint8))
    placed = streaming.place(data, "auto", 2, 1, division.make_mesh(1, 2))
    assert isinstance(placed, streaming.StreamedData) == is_streamed
    assert ("streamed" in capsys.readouterr().out) == is_streamed


@pytest.mark.slow
def test_images_that_change_end_the_run_which_is_saved(images, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_BLOCK_BYTES", 5 * 10 * 64)
    original, train_one_epoch = images.read_bytes(), trainer.train_one_epoch

    def change_file(settings, state, data, epoch, *arguments):
        if epoch == 2:
            images.write_bytes(original[:-6000] + bytes(6000))
        return train_one_epoch(settings, state, data, epoch, *arguments)

    monkeypatch.setattr(trainer, "train_one_epoch", change_file)
    config = config_of(images, "false", checkpoint_seconds=1000.0)
    error = error_of(train.train_and_evaluate, config, tmp_path / "run")
    assert str(images) in error and "saved after" in error
    images.write_bytes(original)
    monkeypatch.setattr(trainer, "train_one_epoch", train_one_epoch)
    train.train_and_evaluate(config_of(images, "true"), tmp_path / "run")
    train.train_and_evaluate(config_of(images, "false"), tmp_path / "expected")
    assert_trees_equal(arrays_of(tmp_path / "run"), arrays_of(tmp_path / "expected"))


def test_a_slow_disk_is_reported_once(monkeypatch, capsys):
    monkeypatch.setattr(streaming, "_MIN_SECONDS", 0.0)
    data = Batch(np.arange(6, dtype=np.int32))
    streamed = streaming.StreamedData(data, 2, 1, division.make_mesh(1, 2))
    streamed.steps_per_block = 1
    send = streamed._send
    monkeypatch.setattr(streamed, "_send", lambda rows: (time.sleep(0.02), send(rows))[1])
    for _ in range(2):
        blocks = streamed.blocks(jax.numpy.arange(6), 0)
        for step in range(3):  # and no fourth is asked for, as in training
            np.testing.assert_array_equal(next(blocks)[0].images, [[2 * step, 2 * step + 1]])
    assert capsys.readouterr().err.count("training waits for images") == 1
