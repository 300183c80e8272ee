"""The optimizer against NumPy: schedules, clipped gradients, weight decay, averaged parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.common import assert_trees_equal, make_settings, small_vae, train_step
from vae_jax.model.structs import Batch
from vae_jax.training import steps
from vae_jax.training.optimizer import create_optimizer, learning_rate_schedule
from vae_jax.training.train_state import MovingAverage

RANDOM = np.random.default_rng(0)
GRADIENTS = RANDOM.normal(size=(20, 5)).astype(np.float32)


def run(optimizer, params, gradients):
    """The parameters after each step, and the optimizer's state after the last."""
    state = optimizer.init(params)
    history = []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append(np.asarray(params, np.float64))
    return history, state


def adam_by_hand(params, gradients, rates, max_norm=np.inf, decay=0.0):
    """Kingma and Ba 2015, algorithm 1, of gradients no longer than `max_norm`.

    With a decay Loshchilov and Hutter 2019, algorithm 2.
    """
    first = second = 0.0
    history = []
    for step, (gradient, rate) in enumerate(zip(gradients.astype(float), rates, strict=True), 1):
        gradient = gradient * min(1.0, max_norm / np.linalg.norm(gradient))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
        adam = corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        params = params - rate * (adam + decay * params)
        history.append(params)
    return history


def test_by_default_it_is_adam():
    history, state = run(create_optimizer(0.1), np.zeros(5), GRADIENTS)
    np.testing.assert_allclose(history, adam_by_hand(np.zeros(5), GRADIENTS, [0.1] * 20), rtol=1e-4)
    expected = optax.adam(0.1).init(np.zeros(5))
    assert jax.tree.structure(state) == jax.tree.structure(expected)  # as in older checkpoints


def test_schedule_and_clipped_gradients_together():
    rates = [0.1 * (1 + np.cos(np.pi * step / 20)) / 2 for step in range(20)]
    norms = np.linalg.norm(GRADIENTS, axis=1)
    limit = float(np.median(norms))  # some are longer, some are not
    schedule = learning_rate_schedule("cosine", 0.1, 20)
    optimizer = create_optimizer(schedule, max_gradient_norm=limit)
    history, _ = run(optimizer, np.zeros(5), GRADIENTS)
    expected = adam_by_hand(np.zeros(5), GRADIENTS, rates, limit)
    np.testing.assert_allclose(history, expected, rtol=1e-4)
    unclipped = adam_by_hand(np.zeros(5), GRADIENTS, rates)
    assert not np.allclose(history, unclipped, rtol=1e-2)


def test_kernels_decay_and_biases_do_not():
    rates = [0.1 * (1 + np.cos(np.pi * step / 20)) / 2 for step in range(20)]
    schedule = learning_rate_schedule("cosine", 0.1, 20)
    optimizer = create_optimizer(schedule, weight_decay=0.5)
    params = {"kernel": np.full((1, 5), 3.0), "bias": np.full(5, 3.0)}
    state = optimizer.init(params)
    for gradient in GRADIENTS:
        updates, state = optimizer.update(
            {"kernel": gradient[None], "bias": gradient}, state, params
        )
        params = optax.apply_updates(params, updates)
    decayed = adam_by_hand(np.full(5, 3.0), GRADIENTS, rates, decay=0.5)[-1]
    plain = adam_by_hand(np.full(5, 3.0), GRADIENTS, rates)[-1]
    np.testing.assert_allclose(params["kernel"][0], decayed, rtol=1e-4)
    np.testing.assert_allclose(params["bias"], plain, rtol=1e-4)
    assert not np.allclose(decayed, plain, rtol=0.1)


def test_burda_schedule_of_the_paper():
    # Section 5: "we used 0.001 * 10 ** (-i / 7) for 3 ** i epochs", i from 0 to 7.
    expected = [0.001 * 10 ** (-i / 7) for i in range(6) for _ in range(3**i)]
    schedule = learning_rate_schedule("burda", 0.001, 3280)
    rates = jax.vmap(schedule)(np.arange(len(expected)))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    for num_steps in (50, 3280):
        schedule = learning_rate_schedule("burda", 1.0, num_steps)
        assert float(schedule(num_steps - 1)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["constant", "cosine", "burda"])
def test_equal_arguments_give_the_same_optimizer(name):
    optimizers = [create_optimizer(learning_rate_schedule(name, 0.1, 20), 1.0) for _ in range(2)]
    assert optimizers[0] is optimizers[1]


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_weighs_each_step_as_the_formula_says(decay):
    history, _ = run(optax.sgd(0.1), np.ones(5), GRADIENTS)
    average = MovingAverage(jnp.int32(0), jnp.ones(5))
    for params in history:
        average = average.update(params.astype(np.float32), decay)
    weights = decay ** np.arange(len(GRADIENTS))[::-1]
    expected = np.average(history, axis=0, weights=weights)
    np.testing.assert_allclose(average.params, expected, rtol=1e-5)
    assert average.count == len(GRADIENTS)


@pytest.mark.slow
def test_the_average_is_evaluated_if_there_is_one():
    model, batch = small_vae(3, 4, (8, 8, 1)), Batch(np.zeros((5, 8, 8, 1), np.uint8))
    plain, averaged = (
        train_step(settings, steps.initial_state(settings, seed=0), batch)[0]
        for settings in (make_settings(model, ema_decay=decay) for decay in (0.0, 0.5))
    )
    assert plain.average is None
    assert plain.evaluation_params is plain.params
    # The average does not change the parameters; after one step it is that step's.
    assert_trees_equal(averaged.params, plain.params)
    assert averaged.evaluation_params is averaged.average.params
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7)
    jax.tree.map(close, averaged.evaluation_params, plain.params)
