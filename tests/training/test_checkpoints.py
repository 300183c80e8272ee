"""Which checkpoints stay, that they come back bit for bit, and what damage to them does."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import older_versions
from tests.support.common import assert_trees_equal, full_disk, make_settings, small_vae
from vae_jax.runtime.errors import UserError
from vae_jax.training import steps
from vae_jax.training.checkpoints import Checkpoints, Progress

MODEL = small_vae(3, 4, (8, 8, 1))
SETTINGS = make_settings(MODEL, optax.adam(0.1))
LIKE = steps.abstract_state(SETTINGS)
LOSSES = (5.0, 3.0, 4.0, 6.0, 7.0, 8.0)


def state_of(epoch):
    state = steps.initial_state(SETTINGS, seed=0)
    return state.replace(
        step=jnp.int32(epoch), params=jax.tree.map(lambda leaf: leaf + epoch, state.params)
    )


def rows_of(losses):
    rows = ({"validation_loss": x, "epoch": i, "step": 10 * i} for i, x in enumerate(losses, 1))
    return tuple([row] for row in rows)


def save_epochs(folder, losses, save=lambda folder, *rest: Checkpoints(folder).save(*rest)):
    for epoch in range(1, len(losses) + 1):
        save(folder, 10 * epoch, state_of(epoch), Progress(rows_of(losses[:epoch])))


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.slow
def test_the_last_three_and_the_best_stay_and_come_back(tmp_path):
    saved = Checkpoints(tmp_path)
    assert saved.restore_latest(LIKE) is None
    assert saved.latest_progress() is None
    save_epochs(tmp_path, LOSSES)
    assert names(tmp_path) == [f"{step}.safetensors" for step in (20, 40, 50, 60)]
    state, progress = saved.restore_latest(LIKE)
    assert_trees_equal(state, state_of(6))
    assert progress == saved.latest_progress() == Progress(rows_of(LOSSES))
    assert_trees_equal(saved.restore_params(20, LIKE.params), state_of(2).params)


@pytest.mark.slow
def test_a_best_epoch_between_checkpoints_is_in_the_next_one(tmp_path):
    saved, params = Checkpoints(tmp_path), state_of(2).params
    saved.save(10, state_of(1), Progress(rows_of(LOSSES[:1])))
    saved.save(30, state_of(3), Progress(rows_of(LOSSES[:3])), best=params)
    for epoch in (4, 5, 6):
        saved.save(10 * epoch, state_of(epoch), Progress(rows_of(LOSSES[:epoch])))
        assert_trees_equal(saved.restore_latest(LIKE)[0], state_of(epoch))
        assert_trees_equal(saved.restore_params(20, LIKE.params), params)
    assert names(tmp_path) == [f"{step}.safetensors" for step in (30, 40, 50, 60)]
    # A better epoch: its own checkpoint has its parameters.
    saved.save(70, state_of(7), Progress(rows_of((*LOSSES, 1.0))), best=params)
    assert names(tmp_path) == [f"{step}.safetensors" for step in (50, 60, 70)]
    assert_trees_equal(saved.restore_params(70, LIKE.params), state_of(7).params)
    with pytest.raises(UserError, match=r"50\.safetensors: the checkpoint is of another model"):
        saved.restore_params(20, LIKE.params)


def test_the_best_epoch_is_the_first_of_the_lowest_mean_loss():
    assert Progress().best is None
    losses = [(5.0, 1.0), (3.0, 2.0), (1.0, 4.0)]
    rows = tuple([{"validation_loss": x, "step": i} for x in y] for i, y in enumerate(losses))
    assert Progress(rows).best == {"validation_loss": 3.0, "step": 1}


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 0x10
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": lambda path: flip(path, -999),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_reported_and_renamed_and_the_one_before_used(
    tmp_path, damage, capsys
):
    save_epochs(tmp_path, LOSSES[:2])
    damage(tmp_path / "checkpoints" / "20.safetensors")
    assert len(Checkpoints(tmp_path).latest_progress().rows) == 1
    assert names(tmp_path) == ["10.safetensors", "20.safetensors"]  # reading changes nothing
    assert capsys.readouterr().err.startswith("the checkpoint of step 20 is ")
    state, _ = Checkpoints(tmp_path).restore_latest(LIKE)
    assert_trees_equal(state, state_of(1))
    assert names(tmp_path) == ["10.safetensors", "damaged_20.safetensors"]
    flip(tmp_path / "checkpoints" / "10.safetensors", -5)
    with pytest.raises(UserError, match="none of the checkpoints can be read"):
        Checkpoints(tmp_path).restore_latest(LIKE)


def test_no_flipped_bit_is_read_as_a_value(tmp_path):
    save_epochs(tmp_path, LOSSES[:1])
    path = tmp_path / "checkpoints" / "10.safetensors"
    content = path.read_bytes()
    for position in [*range(20), *np.random.RandomState(0).randint(20, len(content), 40).tolist()]:
        flip(path, position)
        try:
            params = Checkpoints(tmp_path).restore_params(10, LIKE.params)
        except UserError as error:
            assert "checkpoint is " in str(error)
        else:  # of the name of the checksum, for example
            assert_trees_equal(params, state_of(1).params)
        path.write_bytes(content)


def test_a_save_that_fails_changes_nothing(tmp_path):
    save_epochs(tmp_path, LOSSES[:1])
    with full_disk(100), pytest.raises(OSError, match="too large") as error:
        Checkpoints(tmp_path).save(20, state_of(2), Progress())
    assert error.value.filename.endswith("20.safetensors")
    assert names(tmp_path) == ["10.safetensors"]
    assert_trees_equal(Checkpoints(tmp_path).restore_latest(LIKE)[0], state_of(1))


@pytest.mark.slow
def test_checkpoints_of_orbax_are_read_and_replaced(tmp_path, capsys):
    save_epochs(tmp_path, LOSSES[:2], older_versions.write_checkpoint)
    assert names(tmp_path) == ["10", "20"]
    state, progress = Checkpoints(tmp_path).restore_latest(LIKE)
    assert_trees_equal(state, state_of(2))
    assert progress == Progress(rows_of(LOSSES[:2]))
    assert_trees_equal(Checkpoints(tmp_path).restore_params(10, LIKE.params), state_of(1).params)
    assert capsys.readouterr().err == ""
    save_epochs(tmp_path, LOSSES[:4])
    assert "10" not in names(tmp_path)
    assert_trees_equal(Checkpoints(tmp_path).restore_params(20, LIKE.params), state_of(2).params)


# Threads of Orbax that fail end after the event loop they wait for.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_of_orbax_is_passed_over(tmp_path):
    save_epochs(tmp_path, LOSSES[:2], older_versions.write_checkpoint)
    shutil.rmtree(tmp_path / "checkpoints" / "20" / "params")
    state, progress = Checkpoints(tmp_path).restore_latest(LIKE)
    assert_trees_equal(state, state_of(1))
    assert len(progress.rows) == 1
    assert names(tmp_path) == ["10", "damaged_20"]
