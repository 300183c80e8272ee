"""The compiled steps: they learn, repeat exactly, agree with each other and compile once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.common import assert_trees_equal, make_settings, small_vae, train_step
from vae_jax.model import distributions, losses
from vae_jax.model.objective import Objective
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.training import steps
from vae_jax.training.optimizer import create_optimizer, learning_rate_schedule
from vae_jax.training.validation import evaluate_batch

IMAGES = np.random.RandomState(0).randint(0, 256, size=(23, 28, 28, 1)).astype(np.uint8)
DATA = Batch(IMAGES)

ADAM = optax.adam(0.01)
SETTINGS = make_settings(small_vae(4, filters=(3, 2)), ADAM)
EVALUATION = SETTINGS.evaluation


@pytest.fixture
def state():
    return steps.initial_state(SETTINGS, seed=3)


def copy(state):
    return jax.tree.map(jnp.copy, state)


def test_the_seed_decides_the_initial_state(state):
    assert_trees_equal(state, steps.initial_state(SETTINGS, seed=3))
    other = steps.initial_state(SETTINGS, seed=4)
    assert not np.array_equal(
        state.params["encoder"]["mean"]["kernel"], other.params["encoder"]["mean"]["kernel"]
    )


def test_a_step_is_adam_on_the_mean_loss(state):
    batch = DATA[:5]

    def loss(params):
        intensities = Batch(batch.images.astype(np.float32) / 255)
        key = stream_key(state.root_key, Stream.POSTERIOR, 0)
        posterior = EVALUATION.model.apply({"params": params}, intensities, method="posterior")
        latents = posterior.sample(key).latents
        outputs = EVALUATION.model.apply({"params": params}, latents, Batch(), method="decode")
        log_likelihood = EVALUATION.model.likelihood.log_prob(outputs, intensities.images)
        kl = distributions.gaussian_kl(posterior.mean, posterior.log_var)
        return losses.negative_elbo(log_likelihood, kl)["loss"].mean()

    value, gradients = jax.jit(jax.value_and_grad(loss))(state.params)
    before = jax.tree.map(np.array, state.params)
    new_state, metrics = train_step(SETTINGS, state, batch)
    np.testing.assert_allclose(metrics.sums["loss"] / 5, value, rtol=1e-5)
    # Of vectors, matrices and kernels of convolutions.
    assert {leaf.ndim for leaf in jax.tree.leaves(gradients)} == {1, 2, 4}
    norm = optax.tree.norm(gradients)
    np.testing.assert_allclose(metrics.numbers["gradient_norm"], norm, rtol=1e-4)
    assert new_state.step == 1
    # Adam's first step (Kingma and Ba 2015, algorithm 1): m / sqrt(v) = g / |g|.
    jax.tree.map(
        lambda old, new, g: np.testing.assert_allclose(
            new, old - 0.01 * g / (np.abs(g) + 1e-8), rtol=0, atol=5e-4
        ),
        before,
        new_state.params,
        gradients,
    )


def test_steps_move_every_parameter_consume_the_state_and_lower_the_loss(state):
    before, losses = jax.tree.map(np.array, state.params), []
    for _ in range(60):
        previous = state
        state, metrics = train_step(SETTINGS, state, DATA[:5])
        losses.append(float(metrics.sums["loss"]))
    moved = jax.tree.map(lambda old, new: np.any(old != new), before, state.params)
    assert all(jax.tree.leaves(moved))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(previous.params))
    assert losses[-1] < 0.9 * losses[0]


def test_an_epoch_is_its_steps(state):
    order = steps.epoch_order(SETTINGS, state.root_key, 1, len(DATA))
    stepped, each = copy(state), []
    for first in range(0, 20, 5):
        stepped, metrics = train_step(SETTINGS, stepped, DATA[order[first : first + 5]])
        each.append(metrics)
    scanned, pieces = steps.train_chunk(SETTINGS, state, DATA, order, 0, 4)
    expected = jax.tree.map(lambda *values: jnp.stack(values), *each)
    pieces = pieces[:4]  # the rest is left empty
    # A single step has the norm of its gradient, one of an epoch's only sometimes.
    assert np.isfinite(expected.numbers["gradient_norm"]).all()
    expected.numbers["gradient_norm"] = expected.numbers["gradient_norm"].at[1:].set(jnp.nan)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), pieces, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        scanned.params,
        stepped.params,
    )


def test_an_epoch_repeats_bit_for_bit_in_chunks_too(state):
    order = steps.epoch_order(SETTINGS, state.root_key, 1, len(DATA))
    parts, again, pieces = copy(state), copy(state), []
    complete, all_steps = steps.train_chunk(SETTINGS, state, DATA, order, 0, 4)
    for first, count in ((0, 1), (1, 3)):
        parts, chunk = steps.train_chunk(SETTINGS, parts, DATA, order, first, count)
        pieces.append(chunk[:count])
    joined = jax.tree.map(lambda *values: jnp.concatenate(values), *pieces)
    assert_trees_equal((complete, all_steps[:4]), (parts, joined))
    again, repeated = steps.train_chunk(SETTINGS, again, DATA, order, 0, 4)
    assert_trees_equal((complete, all_steps), (again, repeated))


def test_the_gradient_s_norm_is_that_of_every_sixteenth_step_of_an_epoch():
    settings = make_settings(EVALUATION.model, ADAM, batch_size=1)
    state = steps.initial_state(settings, seed=3)
    order = steps.epoch_order(settings, state.root_key, 1, len(DATA))
    state, chunk = steps.train_chunk(settings, state, DATA, order, 0, 16)
    assert np.flatnonzero(np.isfinite(chunk.numbers["gradient_norm"][:16])).tolist() == [0]
    before = copy(state)
    state, chunk = steps.train_chunk(settings, state, DATA, order, 16, 7)
    assert np.flatnonzero(np.isfinite(chunk.numbers["gradient_norm"][:7])).tolist() == [0]
    # That of the step itself, taken alone from the same state.
    _, metrics = train_step(settings, before, DATA[order[16:17]])
    norm = chunk.numbers["gradient_norm"][0]
    np.testing.assert_allclose(norm, metrics.numbers["gradient_norm"], rtol=1e-4)


def test_replicas_have_their_own_numbers():
    settings = make_settings(EVALUATION.model, ADAM, evaluation={"num_replicas": 2})
    state = steps.initial_state(settings, seed=0)
    _, metrics = train_step(settings, state, DATA[:5])
    for index in range(2):
        _, expected = train_step(SETTINGS, steps.initial_state(SETTINGS, seed=index), DATA[:5])
        jax.tree.map(
            lambda all, one, index=index: np.testing.assert_allclose(all[index], one, rtol=1e-4),
            metrics,
            expected,
        )


def test_learning_rate_and_norm_are_those_of_the_step():
    rate = learning_rate_schedule("cosine", 0.01, 40)
    optimizer = create_optimizer(rate, max_gradient_norm=0.5)
    settings = make_settings(EVALUATION.model, optimizer, learning_rate=rate)
    order = steps.epoch_order(settings, jax.random.key(0), 1, len(DATA))
    state = steps.initial_state(settings, seed=0)
    _, chunk = steps.train_chunk(settings, state, DATA, order, 0, 4)
    rates = chunk[:4].numbers["learning_rate"]
    expected = 0.005 * (1.0 + np.cos(np.pi * np.arange(4) / 40))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    # The norm is that before the gradient is clipped.
    _, metrics = train_step(SETTINGS, steps.initial_state(SETTINGS, seed=0), DATA[order[:5]])
    norm = float(chunk.numbers["gradient_norm"][0])
    np.testing.assert_allclose(norm, metrics.numbers["gradient_norm"], rtol=1e-4)
    assert norm > 0.5


def test_the_weight_of_the_kl_grows_from_step_to_step_during_its_warmup():
    objective = Objective(kl_weight=2.0, kl_warmup_steps=3)
    settings = make_settings(EVALUATION.model, ADAM, evaluation={"objective": objective})
    state = steps.initial_state(settings, seed=0)
    order = steps.epoch_order(settings, state.root_key, 1, len(DATA))
    _, chunk = steps.train_chunk(settings, state, DATA, order, 0, 4)
    weights = chunk.numbers["kl_weight"]
    loss = chunk.sums["reconstruction"] + weights * chunk.sums["kl"]
    np.testing.assert_allclose(chunk.sums["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(weights[:4], [0.0, 2 / 3, 4 / 3, 2.0], rtol=1e-6)


def test_without_a_warmup_there_is_no_weight_among_the_numbers(state):
    _, metrics = train_step(SETTINGS, state, DATA[:5])
    assert set(metrics.numbers) == {"gradient_norm", "learning_rate"}


def test_a_second_epoch_compiles_nothing(state):
    def run_epoch(state, epoch):
        order = steps.epoch_order(SETTINGS, state.root_key, epoch, len(DATA))
        state, _ = steps.train_chunk(SETTINGS, state, DATA, order, 0, 2)
        return steps.train_chunk(SETTINGS, state, DATA, order, 2, 2)[0]

    state = run_epoch(state, 1)
    with jax.no_tracing():  # what is not traced is not compiled
        run_epoch(state, 2)


def test_the_order_is_a_permutation_that_differs_between_epochs(state):
    first, second = (steps.epoch_order(SETTINGS, state.root_key, epoch, 23) for epoch in (1, 2))
    np.testing.assert_array_equal(np.sort(first), np.arange(23))
    np.testing.assert_array_equal(np.sort(second), np.arange(23))
    assert np.any(first != second)


def test_evaluation_of_an_image_depends_on_its_place_alone(state):
    def evaluate(rows):
        terms = evaluate_batch(EVALUATION, state.params, state.root_key, DATA[rows], rows)
        return np.asarray(terms["loss"])

    together = evaluate(np.arange(6))
    assert together.shape == (6,)
    np.testing.assert_allclose(together[3:5], evaluate(np.array([3, 4])), rtol=1e-6)


def test_evaluation_is_the_negative_elbo_with_dropout_off():
    model = small_vae(4, dropout_rate=0.9, dropout_after=(0, 1))
    settings = make_settings(model, evaluation={"objective": Objective(kl_weight=0.5)})
    state = steps.initial_state(settings, seed=0)
    terms = evaluate_batch(
        settings.evaluation, state.params, state.root_key, DATA[:1], np.array([7])
    )
    pixels = IMAGES[:1] / np.float32(255)
    posterior = model.apply({"params": state.params}, Batch(pixels), method="posterior")
    mean, log_var = posterior.mean, posterior.log_var
    noise = jax.random.normal(stream_key(state.root_key, Stream.EVALUATION, 7), (4,))
    latents = mean + jnp.exp(0.5 * log_var) * noise
    logits = model.apply({"params": state.params}, latents, Batch(), method="decode")
    expected = losses.negative_elbo(
        model.likelihood.log_prob(logits, pixels), distributions.gaussian_kl(mean, log_var), 0.5
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), terms, expected)


def test_binarization_draws_each_pixel_anew_with_its_gray_value():
    # Behind an almost constant decoder the reconstruction counts the pixels drawn as 1.
    settings = make_settings(EVALUATION.model, ADAM, binarize=True)
    state = steps.initial_state(settings, seed=0)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    zeros["decoder"]["logits"]["bias"] += 100.0  # -log p(x = 0) = 100, -log p(x = 1) = 0
    gray = Batch(np.full((5, 28, 28, 1), 51, np.uint8))
    counts = []
    for step in range(20):
        drawn = state.replace(
            params=copy(zeros), step=jnp.int32(step), opt_state=copy(state.opt_state)
        )
        drawn = drawn.replace(root_key=jax.random.key(0))
        _, metrics = train_step(settings, drawn, gray)
        counts.append(5 * 784 - float(metrics.sums["reconstruction"]) / 100.0)
    np.testing.assert_allclose(counts, np.round(counts), atol=0.01)  # whole pixels
    assert len(set(np.round(counts))) > 5  # anew at each step
    total, fraction = 20 * 5 * 784, 51 / 255
    error = np.sqrt(total * fraction * (1 - fraction))
    np.testing.assert_allclose(np.sum(counts), total * fraction, atol=5 * error)
