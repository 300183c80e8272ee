"""Which checkpoints stay, and that a state comes back bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax import steps
from vae_jax.checkpoints import Checkpoints
from vae_jax.vae import create_vae

DECODER = {"dense_sizes": (49,), "grid": (7, 7, 1), "filters": (2, 2), "strides": (2, 2)}
SETTINGS = steps.StepSettings(
    create_vae(3, {"kind": "dense", "dense_sizes": (4,)}, DECODER), optax.adam(0.1), batch_size=2
)
LOSSES = (5.0, 3.0, 4.0, 6.0, 7.0, 8.0)


def state_of(epoch):
    state = steps.initial_state(SETTINGS, seed=0)
    return state.replace(
        step=jnp.int32(epoch), params=jax.tree.map(lambda leaf: leaf + epoch, state.params)
    )


def test_the_last_three_and_the_best_stay_and_come_back(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_epoch is None
        assert checkpoints.best_epoch is None
        for epoch, loss in enumerate(LOSSES, start=1):
            checkpoints.save(epoch, state_of(epoch), {"validation_loss": loss})
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {2, 4, 5, 6}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_epoch == 6
        assert checkpoints.best_epoch == 2
        restored = checkpoints.restore(2, steps.abstract_state(SETTINGS))
    expected = state_of(2)
    np.testing.assert_array_equal(
        jax.random.key_data(restored.root_key), jax.random.key_data(expected.root_key)
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        (restored.step, restored.params, restored.opt_state),
        (expected.step, expected.params, expected.opt_state),
    )
