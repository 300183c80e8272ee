"""The compiled steps: they learn, repeat exactly, agree with each other and compile once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.common import assert_trees_equal, make_settings, small_vae
from vae_jax.model import distributions, losses
from vae_jax.model.objective import Objective
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.training import steps
from vae_jax.training.train_state import num_parameters
from vae_jax.training.validation import evaluate_batch

IMAGES = np.random.RandomState(0).randint(0, 256, size=(23, 28, 28, 1)).astype(np.uint8)


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
    assert num_parameters(state.params) == sum(leaf.size for leaf in jax.tree.leaves(other.params))


def test_a_step_is_adam_on_the_mean_loss(state):
    batch = IMAGES[:5]

    def loss(params):
        pixels = batch.astype(np.float32) / 255
        key = stream_key(state.root_key, Stream.POSTERIOR, 0)
        output = EVALUATION.model.apply({"params": params}, pixels, key)
        log_likelihood = EVALUATION.model.likelihood.log_prob(output.outputs, pixels)
        kl = distributions.gaussian_kl(output.mean, output.log_var)
        terms = losses.negative_elbo(log_likelihood, kl)
        return terms.loss.mean()

    value, gradients = jax.jit(jax.value_and_grad(loss))(state.params)
    before = jax.tree.map(np.array, state.params)
    new_state, sums = steps.train_step(SETTINGS, state, batch)
    np.testing.assert_allclose(sums.loss / 5, value, rtol=1e-5)
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


def test_a_step_moves_every_parameter_and_consumes_the_state(state):
    before = jax.tree.map(np.array, state.params)
    new_state, _ = steps.train_step(SETTINGS, state, IMAGES[:5])
    moved = jax.tree.map(lambda old, new: np.any(old != new), before, new_state.params)
    assert all(jax.tree.leaves(moved))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_training_lowers_the_loss(state):
    first, last = None, None
    for _ in range(60):
        state, sums = steps.train_step(SETTINGS, state, IMAGES[:5])
        first, last = first or float(sums.loss), float(sums.loss)
    assert last < 0.9 * first


def test_an_epoch_is_its_steps(state):
    order = steps.epoch_order(SETTINGS, state.root_key, 1, len(IMAGES))
    stepped, sums = copy(state), []
    for first in range(0, 20, 5):
        stepped, terms = steps.train_step(SETTINGS, stepped, IMAGES[order[first : first + 5]])
        sums.append(terms)
    scanned, pieces = steps.train_chunk(SETTINGS, state, IMAGES, order, 0, 4)
    expected = jax.tree.map(lambda *terms: jnp.stack(terms), *sums)
    pieces = jax.tree.map(lambda sums: sums[:4], pieces)  # the rest is left empty
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), pieces, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        scanned.params,
        stepped.params,
    )


def test_an_epoch_in_chunks_is_the_same_bit_for_bit(state):
    order = steps.epoch_order(SETTINGS, state.root_key, 1, len(IMAGES))
    parts, sums = copy(state), []
    whole, whole_sums = steps.train_chunk(SETTINGS, state, IMAGES, order, 0, 4)
    for first, count in ((0, 1), (1, 3)):
        parts, chunk = steps.train_chunk(SETTINGS, parts, IMAGES, order, first, count)
        sums.append(jax.tree.map(lambda values, count=count: values[:count], chunk))
    assert_trees_equal(whole, parts)
    joined = jax.tree.map(lambda *values: jnp.concatenate(values), *sums)
    assert_trees_equal(jax.tree.map(lambda values: values[:4], whole_sums), joined)


def test_the_same_seed_gives_the_same_epoch_bit_for_bit():
    results = []
    for _ in range(2):
        state = steps.initial_state(SETTINGS, seed=3)
        order = steps.epoch_order(SETTINGS, state.root_key, 1, len(IMAGES))
        results.append(steps.train_chunk(SETTINGS, state, IMAGES, order, 0, 4))
    assert_trees_equal(*results)


def test_a_second_epoch_compiles_nothing(state):
    def run_epoch(state, epoch):
        order = steps.epoch_order(SETTINGS, state.root_key, epoch, len(IMAGES))
        state, _ = steps.train_chunk(SETTINGS, state, IMAGES, order, 0, 2)
        return steps.train_chunk(SETTINGS, state, IMAGES, order, 2, 2)[0]

    state = run_epoch(state, 1)
    with jax.no_tracing():  # what is not traced is not compiled
        run_epoch(state, 2)


def test_the_order_is_a_permutation_of_its_own_for_each_epoch(state):
    first, second = (steps.epoch_order(SETTINGS, state.root_key, epoch, 23) for epoch in (1, 2))
    np.testing.assert_array_equal(np.sort(first), np.arange(23))
    np.testing.assert_array_equal(np.sort(second), np.arange(23))
    assert np.any(first != second)


def test_evaluation_of_an_image_depends_on_its_place_alone(state):
    def evaluate(rows):
        terms = evaluate_batch(EVALUATION, state.params, state.root_key, IMAGES[rows], rows)
        return np.asarray(terms.loss)

    together = evaluate(np.arange(6))
    assert together.shape == (6,)
    np.testing.assert_allclose(together[3:5], evaluate(np.array([3, 4])), rtol=1e-6)


def test_evaluation_is_the_negative_elbo_with_dropout_off():
    model = small_vae(4, dropout_rate=0.9, dropout_after=(0, 1))
    settings = make_settings(model, evaluation={"objective": Objective(kl_weight=0.5)})
    state = steps.initial_state(settings, seed=0)
    terms = evaluate_batch(
        settings.evaluation, state.params, state.root_key, IMAGES[:1], np.array([7])
    )
    pixels = IMAGES[:1] / np.float32(255)
    mean, log_var = model.apply({"params": state.params}, pixels, method="encode")
    noise = jax.random.normal(stream_key(state.root_key, Stream.EVALUATION, 7), (4,))
    latents = mean + jnp.exp(0.5 * log_var) * noise
    logits = model.apply({"params": state.params}, latents, method="decode")
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
    gray = np.full((5, 28, 28, 1), 51, np.uint8)
    counts = []
    for step in range(20):
        drawn = state.replace(
            params=copy(zeros), step=jnp.int32(step), opt_state=copy(state.opt_state)
        )
        drawn = drawn.replace(root_key=jax.random.key(0))
        _, sums = steps.train_step(settings, drawn, gray)
        counts.append(5 * 784 - float(sums.reconstruction) / 100.0)
    np.testing.assert_allclose(counts, np.round(counts), atol=0.01)  # whole pixels
    assert len(set(np.round(counts))) > 5  # anew at each step
    total, fraction = 20 * 5 * 784, 51 / 255
    error = np.sqrt(total * fraction * (1 - fraction))
    np.testing.assert_allclose(np.sum(counts), total * fraction, atol=5 * error)
