"""The compiled steps: they learn, repeat exactly, agree with each other and compile once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.common import apply, assert_trees_equal, make_settings, small_vae
from vae_jax.model import distributions, losses
from vae_jax.model.objective import Objective
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.training import steps
from vae_jax.training.optimizer import create_optimizer, learning_rate_schedule
from vae_jax.training.validation import evaluate_batch

SHAPE = (8, 8, 1)
IMAGES = np.random.RandomState(0).randint(0, 80, size=(100, *SHAPE)).astype(np.uint8)
DATA = Batch(IMAGES)
MODEL = small_vae(4, 4, SHAPE, filters=(3, 2))
ADAM = optax.adam(0.01)
SETTINGS = make_settings(MODEL, ADAM)
EVALUATION = SETTINGS.evaluation
# Every option that adds numbers to a step or changes its pixels: one more program.
RATE = learning_rate_schedule("cosine", 0.01, 40)
OPTIONS = make_settings(
    MODEL,
    create_optimizer(RATE, max_gradient_norm=0.5),
    evaluation={"objective": Objective(kl_weight=2.0, kl_warmup_steps=3)},
    learning_rate=RATE,
    binarize=True,
)


@pytest.fixture
def state():
    return steps.initial_state(SETTINGS, seed=3)


def take_steps(state, first=0, count=1, settings=SETTINGS, epoch=1, data=DATA):
    """Takes some steps of an epoch; however many, it is the same program."""
    order = steps.epoch_order(settings, state.root_key, epoch, len(data))
    state, metrics = steps.train_chunk(settings, state, data, order, first, count)
    return state, metrics[:count]


def copy(state):
    return jax.tree.map(jnp.copy, state)


@pytest.mark.slow
def test_a_step_is_adam_on_the_mean_loss(state):
    batch = DATA[np.asarray(steps.epoch_order(SETTINGS, state.root_key, 1, len(DATA)))[:5]]

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
    new_state, metrics = take_steps(state)
    np.testing.assert_allclose(metrics.sums["loss"] / 5, [value], rtol=1e-5)
    assert set(metrics.numbers) == {"gradient_norm", "learning_rate"}
    # Of vectors, matrices and kernels of convolutions.
    assert {leaf.ndim for leaf in jax.tree.leaves(gradients)} == {1, 2, 4}
    norm = optax.tree.norm(gradients)
    np.testing.assert_allclose(metrics.numbers["gradient_norm"], [norm], rtol=1e-4)
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


@pytest.mark.slow
def test_steps_move_every_parameter_consume_the_state_and_lower_the_loss(state):
    before, losses = jax.tree.map(np.array, state.params), []
    for _ in range(60):
        previous = state
        state, metrics = take_steps(state)
        losses.append(float(metrics.sums["loss"][0]))
    moved = jax.tree.map(lambda old, new: np.any(old != new), before, state.params)
    assert all(jax.tree.leaves(moved))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(previous.params))
    assert losses[-1] < 0.9 * losses[0]


def test_an_epoch_repeats_bit_for_bit_in_chunks_too(state):
    parts, again, pieces = copy(state), copy(state), []
    complete, all_steps = take_steps(state, 0, 4)
    for first, count in ((0, 1), (1, 3)):
        parts, chunk = take_steps(parts, first, count)
        pieces.append(chunk)
    joined = jax.tree.map(lambda *values: np.concatenate(values), *pieces)
    assert_trees_equal((complete, all_steps), (parts, joined))
    assert_trees_equal((complete, all_steps), take_steps(again, 0, 4))


@pytest.mark.slow
def test_numbers_are_those_of_the_step():
    _, chunk = take_steps(steps.initial_state(OPTIONS, seed=0), 0, 4, OPTIONS)
    expected = 0.005 * (1.0 + np.cos(np.pi * np.arange(4) / 40))
    np.testing.assert_allclose(chunk.numbers["learning_rate"], expected, rtol=1e-5)
    # The norm is that before the gradient is clipped to 0.5.
    assert chunk.numbers["gradient_norm"][0] > 0.6
    # The weight of the KL grows from step to step during its warmup.
    weights = chunk.numbers["kl_weight"]
    np.testing.assert_allclose(weights, [0.0, 2 / 3, 4 / 3, 2.0], rtol=1e-6)
    loss = chunk.sums["reconstruction"] + weights * chunk.sums["kl"]
    np.testing.assert_allclose(chunk.sums["loss"], loss, rtol=1e-5)


def test_a_second_epoch_compiles_nothing(state):
    state, _ = take_steps(state, 0, 2)
    with jax.no_tracing():  # what is not traced is not compiled
        take_steps(*take_steps(state, 0, 2, epoch=2)[:1], 2, 2, epoch=2)


def test_the_order_is_a_permutation_that_differs_between_epochs(state):
    first, second = (steps.epoch_order(SETTINGS, state.root_key, epoch, 100) for epoch in (1, 2))
    np.testing.assert_array_equal(np.sort(first), np.arange(100))
    np.testing.assert_array_equal(np.sort(second), np.arange(100))
    assert np.any(first != second)


@pytest.mark.slow
def test_evaluation_of_an_image_depends_on_its_place_alone(state):
    def evaluate(rows):
        terms = evaluate_batch(EVALUATION, state.params, state.root_key, DATA[rows], rows)
        return np.asarray(terms["loss"])

    together = evaluate(np.arange(6))
    assert together.shape == (6,)
    np.testing.assert_allclose(together[3:5], evaluate(np.array([3, 4])), rtol=1e-6)


@pytest.mark.slow
def test_evaluation_is_the_negative_elbo_with_dropout_off():
    model = small_vae(4, 4, SHAPE, dropout_rate=0.9, dropout_after=(0, 1))
    settings = make_settings(model, evaluation={"objective": Objective(kl_weight=0.5)})
    state = steps.initial_state(settings, seed=0)
    terms = evaluate_batch(
        settings.evaluation, state.params, state.root_key, DATA[:1], np.array([7])
    )
    pixels = IMAGES[:1] / np.float32(255)
    posterior = apply(model, state.params, Batch(pixels), method="posterior")
    mean, log_var = posterior.mean, posterior.log_var
    noise = jax.random.normal(stream_key(state.root_key, Stream.EVALUATION, 7), (4,))
    latents = mean + jnp.exp(0.5 * log_var) * noise
    logits = apply(model, state.params, latents, Batch(), method="decode")
    expected = losses.negative_elbo(
        model.likelihood.log_prob(logits, pixels), distributions.gaussian_kl(mean, log_var), 0.5
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), terms, expected)


def test_binarization_draws_pixels_anew_at_each_step():
    # Behind an almost constant decoder the reconstruction counts the pixels drawn as 1.
    state = steps.initial_state(OPTIONS, seed=0)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    zeros["decoder"]["logits"]["bias"] += 100.0  # -log p(x = 0) = 100, -log p(x = 1) = 0
    gray = Batch(np.full((100, *SHAPE), 51, np.uint8))
    counts = []
    for step in range(20):
        drawn = copy(state.replace(params=zeros, step=jnp.int32(step)))
        _, metrics = take_steps(drawn, settings=OPTIONS, data=gray)
        counts.append(5 * 64 - float(metrics.sums["reconstruction"][0]) / 100.0)
    np.testing.assert_allclose(counts, np.round(counts), atol=0.01)  # whole pixels
    assert len(set(np.round(counts))) > 5
    total, fraction = 20 * 5 * 64, 51 / 255
    error = np.sqrt(total * fraction * (1 - fraction))
    np.testing.assert_allclose(np.sum(counts), total * fraction, atol=5 * error)
