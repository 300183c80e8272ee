"""Averages over splits and epochs, the order of columns, and the files."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from vae_jax.runtime.errors import UserError
from vae_jax.training.metrics import (
    COLUMNS,
    MetricsWriter,
    StepMetrics,
    columns_of,
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
    [mean] = mean_terms({"kl": -array, "loss": array}, num_images=4)
    assert list(mean.items()) == [("loss", 2.5), ("kl", -2.5)]
    [mean] = mean_terms({"loss": np.full(100_000, 100.1, np.float32)}, num_images=100_000)
    assert math.isclose(mean["loss"], float(np.float32(100.1)), rel_tol=1e-12)


def make_steps(num_steps, terms=("loss", "reconstruction", "kl"), **numbers):
    """Metrics of steps whose sums are 1."""
    return StepMetrics(
        {term: np.ones(num_steps, np.float32) for term in terms},
        {name: np.array(values, np.float32) for name, values in numbers.items()},
    )


def test_steps_that_are_not_finite_do_not_count():
    loss = np.array([[2.0, 4.0], [np.nan, 8.0], [6.0, 0.0]], np.float32)
    steps = StepMetrics({"loss": loss, "kl": np.ones((3, 2), np.float32)}, {})
    expected = [{"train_loss": 2.0, "train_kl": 0.5}] * 2
    assert epoch_means(steps, 2) == expected
    rows = epoch_means(steps, 2, counts_skipped=True)
    assert rows == [expected[i] | {"skipped_updates": 1 - i} for i in range(2)]


def test_numbers_are_averaged_over_the_steps_that_have_them():
    steps = make_steps(3, gradient_norm=[1.0, np.nan, 4.0], learning_rate=[0.1, 0.1, 0.1])
    [means] = epoch_means(steps, 1)
    assert means["gradient_norm"] == 2.5
    assert means["learning_rate"] == 0.1  # in the digits of float32
    [means] = epoch_means(make_steps(2, gradient_norm=[np.nan, np.inf]), 1)
    assert means.keys() == {"train_loss", "train_reconstruction", "train_kl"}


def test_a_replica_may_lack_a_number_that_another_has():
    norms = np.array([[np.nan, 2.0, 4.0], [np.inf, 4.0, 4.0]], np.float32)
    for order in ([0, 1, 2], [1, 2, 0]):
        steps = StepMetrics({"loss": np.ones((2, 3))}, {"gradient_norm": norms[:, order]})
        rows = epoch_means(steps, 1)
        assert ["gradient_norm" in row for row in rows] == [index > 0 for index in order]
        rows = [row | {"epoch": 1, "step": 2} for row in rows]
        assert combine(rows)["gradient_norm"] == 3.5


def test_joined_steps_lack_what_a_piece_lacks():
    new = make_steps(3, ("loss", "sparsity"), gradient_norm=[1.0, np.nan, 3.0])
    joined = concatenate([make_steps(2, ("loss",)), new])
    assert len(joined) == 5
    norms = joined.numbers["gradient_norm"]
    np.testing.assert_array_equal(norms, [np.nan, np.nan, 1.0, np.nan, 3.0])
    assert norms.dtype == np.float32
    np.testing.assert_array_equal(joined[2:].numbers["gradient_norm"], norms[2:])
    # A term that the first steps of an epoch did not measure is not measured in that epoch.
    assert epoch_means(joined, 1) == [{"train_loss": 1.0, "gradient_norm": 2.0}]
    assert epoch_means(new, 1)[0]["train_sparsity"] == 1.0


FURTHER = {
    "kl_weight": 0.5,
    "validation_sparsity": 0.3,
    "gradient_norm": 7.0,
    "train_sparsity": 0.2,
    "train_accuracy": 0.1,
}


def test_further_terms_follow_those_of_their_split_and_further_numbers_come_last():
    expected = [
        *("epoch", "step", "train_loss", "train_reconstruction", "train_kl"),
        *("train_accuracy", "train_sparsity"),
        *("validation_loss", "validation_reconstruction", "validation_kl", "validation_sparsity"),
        *("images_per_second", "gradient_norm", "kl_weight"),
    ]
    assert columns_of([row(1), FURTHER | row(2)]) == expected
    assert columns_of([]) == list(COLUMNS)
    # Of several replicas, deviations of terms follow all means, in the same order.
    combined = combine([row(1, **FURTHER)] * 2)
    split = expected.index("images_per_second")
    assert columns_of([combined]) == expected + [f"{name}_std" for name in expected[2:split]]


def test_rows_are_in_both_files_and_later_columns_are_empty_before(tmp_path):
    path = tmp_path / "metrics.csv"
    with MetricsWriter(tmp_path, [tmp_path]) as writer:
        assert path.read_text() == ",".join(COLUMNS) + "\n"
        writer.write([row(1, train_loss=1 / 3)])
        writer.write([row(2, **FURTHER)])
    rows = [row(1, train_loss=1 / 3), row(2, **FURTHER)]
    assert read_rows(path) == rows
    header, first, last = path.read_text().splitlines()
    assert header.split(",") == columns_of(rows)
    assert first.count(",,") and "" not in last.split(",")
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
    with MetricsWriter(tmp_path, [tmp_path]):  # of a run that was killed before a checkpoint
        assert read_rows(tmp_path / "metrics.csv") == []
    starts = [event.step for event in read_events(tmp_path) if event.session_log.status]
    assert starts == [0, 11, 0]


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
    with pytest.raises(UserError, match=rf"metrics\.csv: .*{expected}"):
        read_rows(path)
