"""Which checkpoints stay, that they come back bit for bit, and what damage to them does."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import older_versions
from tests.support.common import assert_trees_equal, full_disk, make_settings, small_vae
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError
from vae_jax.training import checkpoints, metrics, steps
from vae_jax.training.checkpoints import Checkpoints, Progress, checksum
from vae_jax.training.metrics import StepMetrics

SETTINGS = make_settings(small_vae(hidden=4), optax.adam(0.1))
LOSSES = (5.0, 3.0, 4.0, 6.0, 7.0, 8.0)


def state_of(epoch):
    state = steps.initial_state(SETTINGS, seed=0)
    return state.replace(
        step=jnp.int32(epoch), params=jax.tree.map(lambda leaf: leaf + epoch, state.params)
    )


def save_epochs(folder, losses):
    progress = Progress()
    with Checkpoints(folder) as checkpoints:
        for epoch, loss in enumerate(losses, start=1):
            row = {"validation_loss": loss, "epoch": epoch, "step": 10 * epoch, "third": 1 / 3}
            progress = progress.after([row])
            checkpoints.save(10 * epoch, state_of(epoch), progress)
    return progress


def restore_latest(folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_latest(steps.abstract_state(SETTINGS), devices.single_device())


assert_same_state = assert_trees_equal


def on_an_accelerator(monkeypatch):
    """Has checkpoints written while training goes on."""
    monkeypatch.setattr(devices, "by_platform", lambda cpu, accelerator: accelerator)


@pytest.mark.parametrize("prepare", [lambda monkeypatch: None, on_an_accelerator])
def test_the_last_three_and_the_best_stay_and_come_back(tmp_path, prepare, monkeypatch):
    prepare(monkeypatch)
    assert restore_latest(tmp_path) is None
    progress = save_epochs(tmp_path, LOSSES)
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {20, 40, 50, 60}
    state, restored = restore_latest(tmp_path)
    assert_same_state(state, state_of(6))
    assert restored == progress
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        latest = checkpoints.latest_progress()
        assert latest.best == {"validation_loss": 3.0, "epoch": 2.0, "step": 20.0, "third": 1 / 3}
        like = steps.abstract_state(SETTINGS).params
        params = checkpoints.restore_params(20, like, devices.single_device())
    assert_trees_equal(params, state_of(2).params)


def test_the_best_epoch_is_kept_and_not_sought_again(monkeypatch):
    rows = [[{"validation_loss": loss, "epoch": epoch}] for epoch, loss in enumerate(LOSSES)]
    calls = []
    mean_and_std = metrics.mean_and_std

    def counted(rows):
        calls.append(1)
        return mean_and_std(rows)

    monkeypatch.setattr(metrics, "mean_and_std", counted)
    progress = Progress()
    for epoch in rows:
        progress = progress.after(epoch)
    assert progress.best == {"validation_loss": 3.0, "epoch": 1.0}
    assert progress.after([{"validation_loss": 3.0, "epoch": 9}]).best["epoch"] == 1.0
    assert dataclasses.replace(progress, steps=None).best == progress.best
    assert len(calls) == len(rows) + 1
    assert Progress(tuple(rows)) == progress


def make_steps():
    """Metrics of seven steps of two replicas, in which not every number is there at every step."""
    rng = np.random.RandomState(0)
    loss, reconstruction, kl, norm, rate = rng.normal(size=(5, 7, 2)).astype(np.float32)
    norm[1:] = np.nan
    loss[3, 0], norm[0, 1] = np.nan, np.inf
    sums = {"loss": loss, "reconstruction": reconstruction, "kl": kl}
    return StepMetrics(sums, {"gradient_norm": norm, "learning_rate": rate})


def save_progress(folder, progress):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(7, state_of(0), progress)


def test_the_metrics_of_an_unfinished_epoch_come_back(tmp_path):
    epoch_steps = make_steps()
    save_progress(tmp_path, Progress(steps=epoch_steps, seconds=1.5))
    _, progress = restore_latest(tmp_path)
    assert progress.rows == ()
    assert progress.best is None
    assert progress.seconds == 1.5
    assert_trees_equal(progress.steps, epoch_steps)
    assert list(progress.steps.numbers) == ["gradient_norm", "learning_rate"]


def test_steps_of_a_version_without_numbers_come_back(tmp_path):
    epoch_steps = make_steps()
    save_progress(tmp_path, Progress(steps=epoch_steps))
    older_versions.rewrite_checkpoint(tmp_path / "checkpoints" / "7")
    state, progress = restore_latest(tmp_path)
    assert_same_state(state, state_of(0))
    assert_trees_equal(progress.steps, StepMetrics(epoch_steps.sums, {}))
    with Checkpoints(tmp_path, read_only=True) as opened:
        assert opened.latest_progress().steps.numbers == {}


def test_rows_of_a_version_without_numbers_come_back(tmp_path):
    save_epochs(tmp_path, LOSSES[:3])
    older_versions.rewrite_checkpoint(tmp_path / "checkpoints" / "30")
    _, restored = restore_latest(tmp_path)
    rows = [
        [{"validation_loss": loss, "epoch": epoch, "step": 10 * epoch}]
        for epoch, loss in enumerate(LOSSES[:3], start=1)
    ]
    assert restored == Progress(tuple(rows))
    assert restored.best == rows[1][0]
    # Later rows have more columns than those.
    assert restored.after([rows[0][0] | {"validation_loss": 1.0, "third": 1 / 3}]).best["third"]


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def lose_arrays(folder):
    shutil.rmtree(folder / "state")


def lose_params(folder):
    shutil.rmtree(folder / "params")


def truncate(folder):
    path = max(folder.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_everything(folder):
    for path in filter(lambda path: path.is_file(), folder.rglob("*")):
        path.write_bytes(b"")


def flip_bits(folder):
    path = max(folder.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def alter_progress(folder):
    [path] = [path for path in (folder / "progress").iterdir() if path.name == "metadata"]
    record = json.loads(path.read_text())
    record["content"]["rows"][0][0]["validation_loss"] -= 1.0
    path.write_text(json.dumps(record))


DAMAGE = [empty, lose_arrays, lose_params, truncate, truncate_everything, flip_bits, alter_progress]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_said_to_be(tmp_path, damage, capsys):
    save_epochs(tmp_path, LOSSES[:2])
    damage(tmp_path / "checkpoints" / "20")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        if damage not in (
            lose_arrays,
            lose_params,
            truncate,
            flip_bits,
        ):  # the arrays are not looked at
            assert len(checkpoints.latest_progress().rows) == 1
            assert "the checkpoint of step 20 is damaged" in capsys.readouterr().err
    state, progress = restore_latest(tmp_path)
    assert_same_state(state, state_of(1))
    assert len(progress.rows) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("the checkpoint of step 20 is damaged (")
    moved = tmp_path / "checkpoints" / "damaged_20_1"
    assert message.endswith(f"is {moved}\n")
    assert moved.is_dir()
    # The run goes on as if the damaged one had never been, and saves that step again.
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(20, state_of(2), progress)
    assert_same_state(restore_latest(tmp_path)[0], state_of(2))
    assert capsys.readouterr().err == ""


def test_damage_to_all_checkpoints_is_an_error(tmp_path, capsys):
    save_epochs(tmp_path, LOSSES[:3])
    for step, damage in zip((10, 20, 30), itertools.cycle((truncate, empty)), strict=False):
        damage(tmp_path / "checkpoints" / str(step))
    with pytest.raises(UserError, match=r"checkpoints: none of the checkpoints can be read"):
        restore_latest(tmp_path)
    assert capsys.readouterr().err.count("is damaged") == 3


def test_a_damaged_best_checkpoint_is_an_error(tmp_path):
    save_epochs(tmp_path, LOSSES)
    flip_bits(tmp_path / "checkpoints" / "20")
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(UserError, match=r"checkpoints/20: the checkpoint is damaged \("),
    ):
        checkpoints.restore_params(
            20, steps.abstract_state(SETTINGS).params, devices.single_device()
        )


def test_the_checksum_sees_every_word():
    state = state_of(1)
    before = int(checksum(state))
    leaves, tree = jax.tree.flatten(state)
    for index, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            changed = jax.random.key(12345)
        else:
            changed = leaf.reshape(-1).at[-1].add(1).reshape(leaf.shape)
        other = jax.tree.unflatten(tree, [*leaves[:index], changed, *leaves[index + 1 :]])
        assert int(checksum(other)) != before
    # Words that change places are a change too.
    index = next(index for index, leaf in enumerate(leaves) if leaf.ndim == 2)
    other = jax.tree.unflatten(tree, [*leaves[:index], leaves[index][::-1], *leaves[index + 1 :]])
    assert int(checksum(other)) != before


@pytest.mark.parametrize("name", ["lr[0.001]", "a*b?", "**", "50%7E#x {1,2} ~: é"])
def test_no_character_of_the_path_is_a_pattern(tmp_path, name, capsys):
    progress = save_epochs(tmp_path / name, LOSSES[:2])
    state, restored = restore_latest(tmp_path / name)
    assert_same_state(state, state_of(2))
    assert restored == progress
    assert capsys.readouterr().err == ""


def test_no_folder_is_an_address():
    assert not checkpoints._LocalPath("/gs/no such folder").exists()


def refuse_files(monkeypatch, manager):
    """As of another user's checkpoint: Orbax says that the files are not there."""

    def refuse(path, *arguments, **keywords):
        if "checkpoints/20" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open(path, *arguments, **keywords)

    monkeypatch.setattr(checkpoints, "open", refuse, raising=False)
    shutil.rmtree(manager.directory / "20" / "params")


def refuse_by(error):
    def refuse(monkeypatch, manager):
        def restore(*arguments, **keywords):
            raise error

        monkeypatch.setattr(manager, "restore", restore)

    return refuse


NOT_DAMAGE = [
    (refuse_files, r"Permission denied"),
    (refuse_by(OSError(errno.EMFILE, "Too many open files")), "Too many open files"),
    (refuse_by(ValueError("RESOURCE_EXHAUSTED: [os_error_code='24']")), "Too many open files"),
    (refuse_by(RuntimeError("can't start new thread")), "can't start new thread"),
]


@pytest.mark.parametrize(("refuse", "reason"), NOT_DAMAGE)
def test_what_may_not_be_read_is_not_damaged(tmp_path, refuse, reason, monkeypatch, capsys):
    save_epochs(tmp_path, LOSSES[:2])
    with Checkpoints(tmp_path) as opened:
        refuse(monkeypatch, opened._manager)
        for read in (
            lambda: opened.restore_latest(steps.abstract_state(SETTINGS), devices.single_device()),
            lambda: opened.restore_params(
                20, steps.abstract_state(SETTINGS).params, devices.single_device()
            ),
        ):
            with pytest.raises(
                UserError, match=rf"/20: the checkpoint cannot be read \(.*{reason}"
            ):
                read()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "20"]
    assert capsys.readouterr().err == ""


def test_the_first_checkpoint_is_read_back(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as opened:
        save = opened._manager.save

        def save_and_damage(step, **arguments):
            save(step, **arguments)
            flip_bits(tmp_path / "checkpoints" / str(step))

        monkeypatch.setattr(opened._manager, "save", save_and_damage)
        with pytest.raises(UserError, match=r"step 10 was written, but cannot be read again \("):
            opened.save(10, state_of(1), Progress())


@pytest.mark.parametrize("is_last", [False, True])
def test_a_save_that_fails_while_training_goes_on_is_said_when_it_is_over(
    tmp_path, is_last, monkeypatch, capfd
):
    on_an_accelerator(monkeypatch)
    trained_on = False
    with (
        contextlib.ExitStack() as disk,
        pytest.raises(UserError, match=r"step 20 cannot be written \(.*too large\)"),
        Checkpoints(tmp_path) as opened,
    ):
        opened.save(10, state_of(1), Progress())
        disk.enter_context(full_disk(100))
        opened.save(20, state_of(2), Progress())
        trained_on = True
        if not is_last:
            opened.save(30, state_of(3), Progress())
    assert trained_on
    assert capfd.readouterr().err == ""
    assert_same_state(restore_latest(tmp_path)[0], state_of(1))
