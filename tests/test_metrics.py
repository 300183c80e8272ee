"""Averages over whole splits, and the two writers."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from vae_jax.errors import UserError
from vae_jax.losses import NegativeElbo
from vae_jax.metrics import COLUMNS, MetricsWriter, mean_terms, read_csv


def terms(*values):
    array = jnp.array(values, jnp.float32)
    return NegativeElbo(loss=array, reconstruction=2 * array, kl=-array)


def row(epoch, **changes):
    values = {name: float(number) for number, name in enumerate(COLUMNS)}
    return values | {"epoch": epoch, "step": 10 * epoch} | changes


def events(workdir):
    """The scalars of all events files, in the order of the files, as `(tag, step, value)`."""
    found = []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            # length (8 bytes), its checksum (4), the event, its checksum (4)
            length = int.from_bytes(data[position : position + 8], "little")
            event = event_pb2.Event.FromString(data[position + 12 : position + 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            position += 16 + length
    return found


def test_the_mean_counts_images_not_batches():
    # Three images in one batch, one in the last: the mean of batch means would be 3.
    [mean] = mean_terms([terms(1.0, 2.0, 3.0), terms(4.0)], num_images=4)
    assert mean == {"loss": 2.5, "reconstruction": 5.0, "kl": -2.5}


def test_sums_are_in_double_precision():
    pieces = [terms(*np.full(10_000, 100.1, np.float32))] * 10
    mean = mean_terms(pieces, num_images=100_000)[0]["loss"]
    assert math.isclose(mean, float(np.float32(100.1)), rel_tol=1e-12)


def test_rows_are_written_and_read_back(tmp_path):
    with MetricsWriter(tmp_path, last_epoch=0, last_step=0) as writer:
        for epoch in (1, 2):
            writer.write(row(epoch, train_loss=1 / 3))
    assert read_csv(tmp_path / "metrics.csv") == [
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
    with MetricsWriter(tmp_path, last_epoch=0, last_step=0) as writer:
        for epoch in (1, 2, 3):
            writer.write(row(epoch))
    with MetricsWriter(tmp_path, last_epoch=1, last_step=10) as resumed:
        assert [r["epoch"] for r in read_csv(tmp_path / "metrics.csv")] == [1]
        resumed.write(row(2, train_kl=5.0))
    assert read_csv(tmp_path / "metrics.csv") == [row(1), row(2, train_kl=5.0)]


def test_no_file_is_no_rows(tmp_path):
    assert read_csv(tmp_path / "metrics.csv") == []


@pytest.mark.parametrize("text", ["epoch,step\n1,2\n", ",".join(COLUMNS) + "\n1,x\n"])
def test_another_file_is_an_error(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.csv: not a metrics file") as error:
        read_csv(path)
    assert "\n" not in str(error.value)
