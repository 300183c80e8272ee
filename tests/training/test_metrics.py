"""Averages over splits and epochs, the order of columns, and the files."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from tests.support.common import error_of
from vae_jax.training.metrics import (
    COLUMNS,
    MetricsWriter,
    StepMetrics,
    combine,
    concatenate,
    epoch_means,
    mean_terms,
    read_rows,
)


def row(epoch, **changes):
    values = {name: float(number) for number, name in enumerate(COLUMNS)}
    return values | {"epoch": epoch, "step": 10 * epoch} | changes


def read_events(workdir):
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            # length (8 bytes), its checksum (4), the event, its checksum (4)
            length = int.from_bytes(data[position : position + 8], "little")
            yield event_pb2.Event.FromString(data[position + 12 : position + 12 + length])
            position += 16 + length


def scalars(workdir):
    return {
        (value.tag, event.step): value.simple_value
        for event in read_events(workdir)
        for value in event.summary.value
    }


def test_the_mean_counts_images_not_batches_in_double_precision():
    # Sums over three images and over one: the mean of the batches' means would be 3.
    array = jnp.array([6.0, 4.0])
    [mean] = mean_terms({"kl": -array, "extra": array, "loss": array}, num_images=4)
    assert mean == {"loss": 2.5, "kl": -2.5, "extra": 2.5}
    [mean] = mean_terms({"loss": np.full(100_000, 100.1, np.float32)}, num_images=100_000)
    assert math.isclose(mean["loss"], float(np.float32(100.1)), rel_tol=1e-12)


def test_steps_that_are_not_finite_do_not_count():
    loss = np.array([[2.0, 4.0], [np.nan, 8.0], [6.0, 0.0]], np.float32)
    steps = StepMetrics({"loss": loss, "kl": np.ones((3, 2), np.float32)}, {})
    expected = [{"train_loss": 2.0, "train_kl": 0.5}] * 2
    assert epoch_means(steps, 2) == expected
    rows = epoch_means(steps, 2, counts_skipped=True)
    assert rows == [expected[i] | {"skipped_updates": 1 - i} for i in range(2)]


def test_numbers_are_averaged_over_the_steps_and_replicas_that_have_them():
    norms = np.array([[np.nan, 2.0, 1.0], [np.inf, 4.0, np.nan]], np.float32)
    rates = np.full((2, 3), 0.1, np.float32)
    numbers = {"gradient_norm": norms, "learning_rate": rates}
    rows = epoch_means(StepMetrics({"loss": np.ones((2, 3))}, numbers), 1)
    assert [row.get("gradient_norm") for row in rows] == [None, 3.0, 1.0]
    assert [row["learning_rate"] for row in rows] == [0.1] * 3  # in the digits of float32
    assert combine([row | {"epoch": 1, "step": 2} for row in rows])["gradient_norm"] == 2.0


def test_joined_steps_lack_what_a_piece_lacks():
    old = StepMetrics({"loss": np.ones(2, np.float32)}, {})
    new = StepMetrics(
        {"loss": np.ones(3, np.float32), "kl": np.ones(3, np.float32)}, {"norm": np.ones(3)}
    )
    assert len(concatenate([old, new])) == 5
    assert epoch_means(concatenate([old, new]), 1) == [{"train_loss": 1.0}]
    assert concatenate([new, new[1:]]).numbers["norm"].tolist() == [1.0] * 5


FURTHER = {"kl_weight": 0.5, "validation_sparsity": 0.3, "gradient_norm": 7.0}


def test_rows_are_in_both_files_and_later_columns_are_empty_before(tmp_path):
    path = tmp_path / "metrics.csv"
    with MetricsWriter(tmp_path, [tmp_path]) as writer:
        assert path.read_text() == ",".join(COLUMNS) + "\n"
        writer.write([row(1, train_loss=1 / 3)])
        writer.write([row(2, **FURTHER)])
    assert read_rows(path) == [row(1, train_loss=1 / 3), row(2, **FURTHER)]
    header, first, last = path.read_text().splitlines()
    assert header.split(",") == [*COLUMNS, *sorted(FURTHER)]
    assert first.endswith(",,,") and "" not in last.split(",")
    written = scalars(tmp_path)
    assert written["train/loss", 10] == np.float32(1 / 3)
    assert written["validation/sparsity", 20] == np.float32(0.3)
    assert written["gradient_norm", 20] == 7.0
    assert {"epoch", "step"}.isdisjoint(tag for tag, _ in written)


def test_a_resumed_run_drops_the_rows_that_no_checkpoint_holds(tmp_path):
    with MetricsWriter(tmp_path, [tmp_path]) as writer:
        for epoch in (1, 2):
            writer.write([row(epoch)])
    with MetricsWriter(tmp_path, [tmp_path], [[row(1)]]) as resumed:
        assert read_rows(tmp_path / "metrics.csv") == [row(1)]
        resumed.write([row(2, train_kl=5.0)])
    assert read_rows(tmp_path / "metrics.csv") == [row(1), row(2, train_kl=5.0)]
    # TensorBoard drops the later steps of the first file; both were opened within a second.
    starts = [event for event in read_events(tmp_path) if event.session_log.status]
    assert {event.session_log.status for event in starts} == {event_pb2.SessionLog.START}
    assert [event.step for event in starts] == [0, 11]
    assert len(list(tmp_path.glob("events.*"))) == 2


def test_each_replica_has_its_rows_and_the_run_their_means(tmp_path):
    folders = [tmp_path / "seed_0", tmp_path / "seed_1"]
    rows = [row(1, gradient_norm=2.0, train_loss=5.0), row(1, gradient_norm=4.0, train_loss=7.0)]
    with MetricsWriter(tmp_path, folders, [[row(0), row(0)]]) as writer:
        writer.write(rows)
    for folder, expected in zip(folders, rows, strict=True):
        assert read_rows(folder / "metrics.csv") == [row(0), expected]
        assert scalars(folder)["train/loss", 10] == expected["train_loss"]
    [_, mean] = read_rows(tmp_path / "metrics.csv")
    assert (mean["epoch"], mean["step"]) == (1, 10)
    assert (mean["train_loss"], mean["gradient_norm"]) == (6.0, 3.0)
    assert mean["train_loss_std"] == pytest.approx(2**0.5)
    assert "gradient_norm_std" not in mean
    assert scalars(tmp_path)["train/loss", 10] == 6.0


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "cannot be read"), ("epoch\nthree\n", "damaged"), ("epoch,step\n1\n", "damaged")],
)
def test_rows_that_cannot_be_read_are_an_error_that_names_the_file(tmp_path, content, expected):
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_text(content)
    error = error_of(read_rows, path)
    assert "metrics.csv: " in error and expected in error
