"""Averages over whole splits, and the two writers."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from vae_jax.runtime.errors import UserError
from vae_jax.training.metrics import (
    COLUMNS,
    EpochWriters,
    MetricsWriter,
    StepMetrics,
    columns_of,
    combine,
    concatenate,
    epoch_means,
    mean_terms,
    read_rows,
)


def terms(*values):
    array = jnp.array(values, jnp.float32)
    return {"loss": array, "reconstruction": 2 * array, "kl": -array}


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
        "images_per_second",
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
    sums = {"loss": loss, "reconstruction": loss, "kl": np.ones((3, 2), np.float32)}
    means, skipped = epoch_means(StepMetrics(sums, {}), 2)
    np.testing.assert_array_equal(skipped, [1, 0])
    assert means == [
        {"train_loss": 2.0, "train_reconstruction": 2.0, "train_kl": 0.5},
        {"train_loss": 2.0, "train_reconstruction": 2.0, "train_kl": 0.5},
    ]


def make_steps(num_steps, **numbers):
    """Metrics of steps whose sums are 1."""
    ones = np.ones(num_steps, np.float32)
    return StepMetrics(
        {"loss": ones, "reconstruction": ones, "kl": ones},
        {name: np.array(values, np.float32) for name, values in numbers.items()},
    )


def test_numbers_are_averaged_over_the_steps_that_have_them():
    steps = make_steps(3, gradient_norm=[1.0, np.nan, 4.0], learning_rate=[0.1, 0.1, 0.1])
    [means], _ = epoch_means(steps, 1)
    assert means["gradient_norm"] == 2.5
    assert means["learning_rate"] == 0.1  # with as many digits as there are, and no others
    # A number that no step has is not in the row.
    [means], _ = epoch_means(make_steps(2, gradient_norm=[np.nan, np.inf]), 1)
    assert means.keys() == {"train_loss", "train_reconstruction", "train_kl"}


def test_a_replica_may_lack_a_number_that_another_has():
    loss = np.ones((2, 3), np.float32)
    norms = np.array([[np.nan, 2.0, 4.0], [np.inf, 4.0, 4.0]], np.float32)
    for order in ([0, 1, 2], [1, 2, 0]):
        steps = StepMetrics({"loss": loss}, {"gradient_norm": norms[:, order]})
        rows, _ = epoch_means(steps, 1)
        assert ["gradient_norm" in row for row in rows] == [index > 0 for index in order]
        rows = [row | {"epoch": 1, "step": 2} for row in rows]
        assert combine(rows)["gradient_norm"] == 3.5


def test_steps_of_pieces_follow_one_another_and_lack_what_a_piece_lacks():
    joined = concatenate([make_steps(2), make_steps(3, gradient_norm=[1.0, np.nan, 3.0])])
    assert len(joined) == 5
    np.testing.assert_array_equal(joined.sums["loss"], np.ones(5))
    norms = joined.numbers["gradient_norm"]
    np.testing.assert_array_equal(norms, [np.nan, np.nan, 1.0, np.nan, 3.0])
    assert norms.dtype == np.float32
    assert epoch_means(joined, 1)[0][0]["gradient_norm"] == 2.0
    assert len(joined[1:3]) == 2
    np.testing.assert_array_equal(joined[2:].numbers["gradient_norm"], [1.0, np.nan, 3.0])


def test_a_term_that_the_epochs_first_steps_lack_is_not_measured_in_that_epoch():
    new = make_steps(2)
    new.sums["sparsity"] = np.ones(2, np.float32)
    [means], skipped = epoch_means(concatenate([make_steps(1), new]), 1)
    assert means == {"train_loss": 1.0, "train_reconstruction": 1.0, "train_kl": 1.0}
    assert skipped == [0]
    [means], _ = epoch_means(new, 1)
    assert means["train_sparsity"] == 1.0


FURTHER = {
    "kl_weight": 0.5,
    "validation_sparsity": 0.3,
    "gradient_norm": 7.0,
    "train_sparsity": 0.2,
    "train_accuracy": 0.1,
    "learning_rate": 0.001,
}


def test_further_terms_follow_those_of_their_split_and_further_numbers_come_last():
    expected = [
        "epoch",
        "step",
        "train_loss",
        "train_reconstruction",
        "train_kl",
        "train_accuracy",
        "train_sparsity",
        "validation_loss",
        "validation_reconstruction",
        "validation_kl",
        "validation_sparsity",
        "images_per_second",
        "gradient_norm",
        "kl_weight",
        "learning_rate",
    ]
    assert columns_of([FURTHER | row(1)]) == expected
    assert columns_of([row(1), row(2, **FURTHER)]) == expected
    assert columns_of([]) == list(COLUMNS)
    # Of several replicas, deviations of terms follow all means, in the same order.
    combined = combine([row(1, **FURTHER)] * 2)
    split = expected.index("images_per_second")
    assert columns_of([combined]) == expected + [f"{name}_std" for name in expected[2:split]]


def test_rows_before_a_column_was_there_have_empty_cells_in_it(tmp_path):
    path = tmp_path / "metrics.csv"
    with MetricsWriter(tmp_path, [row(1), row(2)]) as writer:
        assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
        writer.write(row(3, **FURTHER))
    header, first, _, last = path.read_text().splitlines()
    assert header.split(",") == columns_of([row(3, **FURTHER)])
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    assert {name for name, cell in cells.items() if cell == ""} == set(FURTHER)
    assert "" not in last.split(",")
    assert read_rows(path) == [row(1), row(2), row(3, **FURTHER)]
    # An older version's column that is not measured any more stays too.
    with MetricsWriter(tmp_path, read_rows(path)) as writer:
        writer.write(row(4))
    assert read_rows(path) == [row(1), row(2), row(3, **FURTHER), row(4)]


def test_tensorboard_groups_terms_by_their_split_and_has_numbers_by_name(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(row(1, **FURTHER))
    written = {tag: value for tag, _, value in events(tmp_path)}
    assert written.keys() >= {"train/sparsity", "validation/sparsity", "train/loss"}
    for name in ("gradient_norm", "kl_weight", "learning_rate"):
        assert written[name] == np.float32(FURTHER[name])
    assert {"epoch", "step", "train_loss"}.isdisjoint(written)


def test_each_replica_has_its_rows_and_the_run_their_means(tmp_path):
    folders = [tmp_path / "seed_0", tmp_path / "seed_1"]
    rows = [row(1, gradient_norm=2.0, train_loss=5.0), row(1, gradient_norm=4.0, train_loss=7.0)]
    older = [row(0), row(0)]
    with EpochWriters(folders, tmp_path, [older]) as writers:
        writers.write(rows)
    for folder, expected in zip(folders, rows, strict=True):
        assert read_rows(folder / "metrics.csv") == [row(0), expected]
    [_, mean] = read_rows(tmp_path / "metrics.csv")
    assert (mean["epoch"], mean["step"]) == (1, 10)
    assert (mean["train_loss"], mean["gradient_norm"]) == (6.0, 3.0)
    assert mean["train_loss_std"] == pytest.approx(2**0.5)
    assert "gradient_norm_std" not in mean


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
