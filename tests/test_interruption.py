"""Training processes that are ended at any moment, and go on bit for bit."""

import random
import re
import signal
import time

import pytest

from tests.processes import (
    ARGUMENTS,
    assert_same_run,
    finish,
    is_writing_a_checkpoint,
    kill,
    start,
    train,
    wait_for_line,
)
from tests.reading import rows_without_timing


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(workdir, *ARGUMENTS)
    return workdir


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_signal_saves_within_the_epoch_and_says_how_to_go_on(tmp_path, whole, number, status):
    workdir = tmp_path / "run"
    process = start(workdir, *ARGUMENTS)
    wait_for_line(process, "epoch 1/3")
    time.sleep(0.1)  # between the epochs the signal would save nothing but the epoch
    process.send_signal(number)
    returned, _, errors = finish(process)
    assert returned == status, errors
    place = r"step (\d+), epoch (\d) of 3 and a part"
    found = re.fullmatch(
        f"ended by {number.name}; saved after {place}; the same command goes on\n", errors
    )
    assert found, errors
    # Nearly always in the second epoch; on a busy machine the signal may come later.
    step, epoch = map(int, found.groups())
    assert 200 * epoch < step < 200 * (epoch + 1)
    assert step % 10 == 0
    assert [row["epoch"] for row in rows_without_timing(workdir)] == [*range(1, epoch + 1)]
    output = train(workdir, *ARGUMENTS)
    assert output.startswith(f"resuming after step {step}, epoch {epoch} of 3 and a part\n")
    assert_same_run(workdir, whole)


def test_a_second_signal_is_obeyed_at_once(tmp_path):
    process = start(tmp_path / "run", *ARGUMENTS)
    wait_for_line(process, "epoch 1/3")
    # Stopped, so that both arrive before anything is done about the first.
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    status, _, errors = finish(process)
    assert status in (130, 143)
    assert "Traceback" not in errors


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path, whole):
    workdir, rng = tmp_path / "run", random.Random(0)

    def writing():
        return is_writing_a_checkpoint(workdir)

    def never():
        return False

    moments = ((never, rng.uniform(0.0, 0.2)), (writing, 60.0), (never, rng.uniform(0.0, 0.2)))
    for moment, seconds in moments:
        process = start(workdir, *ARGUMENTS)
        process.stdout.readline()  # of the first epoch, or that it resumes
        assert kill(process, moment, seconds)
    output = train(workdir, *ARGUMENTS)
    assert output.startswith("resuming after")
    assert_same_run(workdir, whole)


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path):
    workdir = tmp_path / "run"
    first = start(workdir, *ARGUMENTS)
    wait_for_line(first, "epoch 1/3")
    status, output, errors = finish(start(workdir, *ARGUMENTS))
    assert (status, output) == (1, "")
    assert errors.startswith(f"error: --workdir={workdir}: process {first.pid} on ")
    assert errors.endswith("is training there; wait for it, stop it, or give another folder\n")
    assert finish(first)[0] == 0
