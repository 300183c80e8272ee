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
from vae_jax.model.structs import Batch
from vae_jax.training import steps
from vae_jax.training.optimizer import create_optimizer, learning_rate_schedule
from vae_jax.training.train_state import num_parameters
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
    assert num_parameters(state.params) == sum(leaf.size for leaf in jax.tree.leaves(other.params))


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
    new_state, metrics = steps.train_step(SETTINGS, state, batch)
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


def test_a_step_moves_every_parameter_and_consumes_the_state(state):
    before = jax.tree.map(np.array, state.params)
    new_state, _ = steps.train_step(SETTINGS, state, DATA[:5])
    moved = jax.tree.map(lambda old, new: np.any(old != new), before, new_state.params)
    assert all(jax.tree.leaves(moved))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_training_lowers_the_loss(state):
    first, last = None, None
    for _ in range(60):
        state, metrics = steps.train_step(SETTINGS, state, DATA[:5])
        loss = float(metrics.sums["loss"])
        first, last = first or loss, loss
    assert last < 0.9 * first


def test_an_epoch_is_its_steps(state):
    order = steps.epoch_order(SETTINGS, state.root_key, 1, len(DATA))
    stepped, each = copy(state), []
    for first in range(0, 20, 5):
        stepped, metrics = steps.train_step(SETTINGS, stepped, DATA[order[first : first + 5]])
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


def test_an_epoch_in_chunks_is_the_same_bit_for_bit(state):
    order = steps.epoch_order(SETTINGS, state.root_key, 1, len(DATA))
    parts, pieces = copy(state), []
    whole, whole_steps = steps.train_chunk(SETTINGS, state, DATA, order, 0, 4)
    for first, count in ((0, 1), (1, 3)):
        parts, chunk = steps.train_chunk(SETTINGS, parts, DATA, order, first, count)
        pieces.append(chunk[:count])
    assert_trees_equal(whole, parts)
    joined = jax.tree.map(lambda *values: jnp.concatenate(values), *pieces)
    assert_trees_equal(whole_steps[:4], joined)


def test_the_gradient_s_norm_is_that_of_every_sixteenth_step_of_an_epoch():
    settings = make_settings(EVALUATION.model, ADAM, batch_size=1)
    state = steps.initial_state(settings, seed=3)
    order = steps.epoch_order(settings, state.root_key, 1, len(DATA))
    norms = []
    for first, count in ((0, 9), (9, 14)):
        before = copy(state)
        state, chunk = steps.train_chunk(settings, state, DATA, order, first, count)
        norms.append(chunk[:count].numbers["gradient_norm"])
    norms = np.concatenate(norms)
    assert np.flatnonzero(np.isfinite(norms)).tolist() == [0, 16]
    # That of the step itself, taken alone from the same state.
    before, _ = steps.train_chunk(settings, before, DATA, order, 9, 7)
    _, metrics = steps.train_step(settings, before, DATA[order[16:17]])
    np.testing.assert_allclose(norms[16], metrics.numbers["gradient_norm"], rtol=1e-4)


def test_replicas_have_their_own_numbers():
    evaluation = {"num_replicas": 2}
    settings = make_settings(EVALUATION.model, ADAM, evaluation=evaluation)
    state = steps.initial_state(settings, seed=0)
    _, metrics = steps.train_step(settings, state, Batch(np.stack([IMAGES[:5]] * 2)))
    for index in range(2):
        alone = steps.initial_state(SETTINGS, seed=index)
        _, expected = steps.train_step(SETTINGS, alone, DATA[:5])
        jax.tree.map(
            lambda all, one, index=index: np.testing.assert_allclose(all[index], one, rtol=1e-4),
            metrics,
            expected,
        )


@pytest.mark.parametrize("schedule", ["constant", "cosine", "burda"])
def test_the_learning_rate_of_a_step_is_its_schedule_s(schedule):
    rate = learning_rate_schedule(schedule, 0.01, 40)
    settings = make_settings(EVALUATION.model, learning_rate=rate)
    rates = jax.jit(jax.vmap(settings.learning_rate_at))(jnp.arange(40))
    assert rates.dtype == jnp.float32
    expected = [float(rate(step)) if callable(rate) else rate for step in range(40)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)
    assert (rates[-1] < rates[0]) == (schedule != "constant")


def test_learning_rate_and_norm_are_those_of_the_step():
    rate = learning_rate_schedule("cosine", 0.01, 40)
    optimizer = create_optimizer(rate, max_gradient_norm=0.5)
    settings = make_settings(EVALUATION.model, optimizer, learning_rate=rate)
    state = steps.initial_state(settings, seed=0)
    order = steps.epoch_order(settings, state.root_key, 1, len(DATA))
    rates, norms = [], []
    for _ in range(2):
        state, chunk = steps.train_chunk(settings, state, DATA, order, 0, 4)
        norms.append(float(chunk.numbers["gradient_norm"][0]))
        rates += chunk[:4].numbers["learning_rate"].tolist()
    expected = 0.005 * (1.0 + np.cos(np.pi * np.arange(8) / 40))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    # The gradient's norm is that before it is clipped.
    plain = steps.initial_state(SETTINGS, seed=0)
    _, metrics = steps.train_step(SETTINGS, plain, DATA[order[:5]])
    np.testing.assert_allclose(norms[0], metrics.numbers["gradient_norm"], rtol=1e-4)
    assert norms[0] > 0.5
    # The optimizer's steps have that rate: Adam's first is the rate times the gradient's sign.
    state = steps.initial_state(settings, seed=0)
    state = state.replace(step=jnp.int32(30), opt_state=at_step(state.opt_state, 30))
    before = np.asarray(state.params["decoder"]["logits"]["bias"])
    after, chunk = steps.train_chunk(settings, state, DATA, order, 0, 1)
    change = np.abs(np.asarray(after.params["decoder"]["logits"]["bias"]) - before)
    # At Adam's step 31 of which the others were zeros: sqrt(1 - 0.999^31) / (1 - 0.9^31) of it.
    scale = (0.1 / (1 - 0.9**31)) / np.sqrt(0.001 / (1 - 0.999**31))
    used = chunk.numbers["learning_rate"][0] * scale
    np.testing.assert_allclose(np.median(change), used, rtol=1e-3)


def at_step(opt_state, step):
    """An optimizer's state with other counts of steps."""
    return jax.tree.map(
        lambda leaf: jnp.full_like(leaf, step) if leaf.dtype == jnp.int32 else leaf, opt_state
    )


def test_the_weight_of_the_kl_grows_from_step_to_step_during_its_warmup():
    objective = Objective(kl_weight=2.0, kl_warmup_steps=5)
    settings = make_settings(EVALUATION.model, ADAM, evaluation={"objective": objective})
    state = steps.initial_state(settings, seed=0)
    order = steps.epoch_order(settings, state.root_key, 1, len(DATA))
    weights = []
    for _ in range(2):
        state, chunk = steps.train_chunk(settings, state, DATA, order, 0, 4)
        weights += chunk[:4].numbers["kl_weight"].tolist()
        loss = chunk.sums["reconstruction"] + chunk.numbers["kl_weight"] * chunk.sums["kl"]
        np.testing.assert_allclose(chunk.sums["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(weights, [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0], rtol=1e-6)


def test_without_a_warmup_there_is_no_weight_among_the_numbers(state):
    _, metrics = steps.train_step(SETTINGS, state, DATA[:5])
    assert set(metrics.numbers) == {"gradient_norm", "learning_rate"}
    assert set(metrics.sums) == {"loss", "reconstruction", "kl"}


def test_the_same_seed_gives_the_same_epoch_bit_for_bit():
    results = []
    for _ in range(2):
        state = steps.initial_state(SETTINGS, seed=3)
        order = steps.epoch_order(SETTINGS, state.root_key, 1, len(DATA))
        results.append(steps.train_chunk(SETTINGS, state, DATA, order, 0, 4))
    assert_trees_equal(*results)


def test_a_second_epoch_compiles_nothing(state):
    def run_epoch(state, epoch):
        order = steps.epoch_order(SETTINGS, state.root_key, epoch, len(DATA))
        state, _ = steps.train_chunk(SETTINGS, state, DATA, order, 0, 2)
        return steps.train_chunk(SETTINGS, state, DATA, order, 2, 2)[0]

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
        _, metrics = steps.train_step(settings, drawn, gray)
        counts.append(5 * 784 - float(metrics.sums["reconstruction"]) / 100.0)
    np.testing.assert_allclose(counts, np.round(counts), atol=0.01)  # whole pixels
    assert len(set(np.round(counts))) > 5  # anew at each step
    total, fraction = 20 * 5 * 784, 51 / 255
    error = np.sqrt(total * fraction * (1 - fraction))
    np.testing.assert_allclose(np.sum(counts), total * fraction, atol=5 * error)
