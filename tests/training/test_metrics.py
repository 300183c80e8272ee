"""Averages over whole splits, and the two writers."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from vae_jax.model.losses import LossTerms
from vae_jax.runtime.errors import UserError
from vae_jax.training.metrics import COLUMNS, MetricsWriter, epoch_terms, mean_terms, read_rows


def terms(*values):
    array = jnp.array(values, jnp.float32)
    return LossTerms(loss=array, reconstruction=2 * array, kl=-array)


def row(epoch, **changes):
    values = {name: float(number) for number, name in enumerate(COLUMNS)}
    return values | {"epoch": epoch, "step": 10 * epoch} | changes


def events(workdir):
    """The scalars of all events files, in the order of the files, as `(tag, step, value)`."""
    paths = sorted(workdir.glob("events.out.tfevents.*"))
    return [
        (value.tag, event.step, value.simple_value)
        for path in paths
        for event in read_events(path)
        for value in event.summary.value
    ]


def read_events(path):
    data, position = path.read_bytes(), 0
    while position < len(data):
        # length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[position : position + 8], "little")
        yield event_pb2.Event.FromString(data[position + 12 : position + 12 + length])
        position += 16 + length


def test_the_mean_counts_images_not_batches():
    # Sums over three images and over one: the mean of the batches' means would be 3.
    [mean] = mean_terms(terms(6.0, 4.0), num_images=4)
    assert mean == {"loss": 2.5, "reconstruction": 5.0, "kl": -2.5}


def test_sums_are_in_double_precision():
    many = terms(*np.full(100_000, 100.1, np.float32))
    mean = mean_terms(many, num_images=100_000)[0]["loss"]
    assert math.isclose(mean, float(np.float32(100.1)), rel_tol=1e-12)


def test_rows_are_written_and_read_back(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for epoch in (1, 2):
            writer.write(row(epoch, train_loss=1 / 3))
    assert read_rows(tmp_path / "metrics.csv") == [
        row(1, train_loss=1 / 3),
        row(2, train_loss=1 / 3),
    ]
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert header == (
        "epoch,step,train_loss,train_reconstruction,train_kl,validation_loss,"
        "validation_reconstruction,validation_kl,images_per_second"
    )
    written = events(tmp_path)
    assert ("train/loss", 10, np.float32(1 / 3)) in written
    assert {tag for tag, _, _ in written} == {
        "train/loss",
        "train/reconstruction",
        "train/kl",
        "validation/loss",
        "validation/reconstruction",
        "validation/kl",
        "images/per_second",
    }


def test_a_resumed_run_drops_the_rows_no_checkpoint_holds(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for epoch in (1, 2, 3):
            writer.write(row(epoch))
    with MetricsWriter(tmp_path, [row(1)]) as resumed:
        assert [r["epoch"] for r in read_rows(tmp_path / "metrics.csv")] == [1]
        resumed.write(row(2, train_kl=5.0))
    assert read_rows(tmp_path / "metrics.csv") == [row(1), row(2, train_kl=5.0)]


def test_tensorboard_is_told_which_events_are_void(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(row(1))
    with MetricsWriter(tmp_path, [row(1)]):
        # Two files, though opened within a second, and by one process.
        paths = sorted(tmp_path.glob("events.out.tfevents.*"))
    starts = [event for path in paths for event in read_events(path) if event.session_log.status]
    assert [(event.step, event.session_log.status) for event in starts] == [
        (11, event_pb2.SessionLog.START)
    ]
    assert len(events(tmp_path)) == 7


def test_steps_that_are_not_finite_do_not_count():
    loss = np.array([[2.0, 4.0], [np.nan, 8.0], [6.0, 0.0]], np.float32)
    means, skipped = epoch_terms(LossTerms(loss, loss, np.ones((3, 2), np.float32)), 2)
    np.testing.assert_array_equal(skipped, [1, 0])
    assert means == [
        {"loss": 2.0, "reconstruction": 2.0, "kl": 0.5},
        {"loss": 2.0, "reconstruction": 2.0, "kl": 0.5},
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "cannot be read"), ("epoch\nthree\n", "damaged"), ("epoch,step\n1\n", "damaged")],
)
def test_rows_that_cannot_be_read_are_an_error_that_names_the_file(tmp_path, content, expected):
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"metrics\.csv: .*{expected}"):
        read_rows(path)
