"""Objectives beyond the plain ELBO: by hand, by numerical gradients, against each other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tests.support.common import apply, make_settings, small_vae, train_step
from vae_jax.model import distributions, losses
from vae_jax.model.objective import Objective, evaluation_terms, training_loss
from vae_jax.model.priors import GaussianMixture
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.training import steps

RANDOM = np.random.default_rng(0)
PIXELS = (RANDOM.uniform(size=(5, 28, 28, 1)) < 0.2).astype(np.float32)
BATCH = Batch(PIXELS)
MEAN, LOG_VAR = RANDOM.normal(size=(2, 6, 3))
MODEL = small_vae()
LIKELIHOOD, PRIOR = MODEL.likelihood, MODEL.prior
KL_PER_DIMENSION = distributions.gaussian_kl_per_dimension


def free_bits_of(mean, log_var):
    return losses.free_bits_kl(KL_PER_DIMENSION(mean, log_var), 0.5)


@pytest.fixture(scope="module")
def state():
    return steps.initial_state(make_settings(MODEL), seed=0)


def loss_of(objective, state, params=None, step=0, key=0):
    params = state.params if params is None else params
    keys = jax.random.key(key), None
    compute = jax.jit(training_loss, static_argnums=(0, 1))
    loss, (terms, _) = compute(objective, MODEL, params, BATCH, *keys, step)
    return loss, terms


def posterior_of(params):
    return apply(MODEL, params, BATCH, method="posterior")


def test_warm_up_is_linear_and_ends_at_one():
    weights = [float(losses.linear_warmup(step, 4)) for step in range(6)]
    assert weights == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_free_bits_by_hand():
    kl = 0.5 * (np.exp(LOG_VAR) + MEAN**2 - 1 - LOG_VAR).mean(0)
    free = float(np.sort(kl)[1]) - 1e-3  # one variable below it, two above
    expected = np.maximum(kl, free).sum()
    assert kl.min() < free
    assert losses.free_bits_kl(KL_PER_DIMENSION(MEAN, LOG_VAR), free) == pytest.approx(
        expected, rel=1e-5
    )
    assert losses.free_bits_kl(KL_PER_DIMENSION(MEAN, LOG_VAR), 0.0) == pytest.approx(
        kl.sum(), rel=1e-5
    )


def test_gradients_are_the_numerical_ones():
    log_weights = RANDOM.normal(size=(4, 3))
    with jax.enable_x64(True):
        arguments = (jnp.array(MEAN), jnp.array(LOG_VAR))
        jax.test_util.check_grads(free_bits_of, arguments, order=1, modes=["rev"])
        bound = losses.importance_weighted_bound
        jax.test_util.check_grads(bound, (jnp.array(log_weights),), order=1, modes=["rev"])


def test_the_bound_is_the_log_of_the_mean_weight():
    log_weights = RANDOM.normal(size=(7, 3)) * 5 - 1000
    expected = scipy.special.logsumexp(log_weights, axis=0) - np.log(7)
    np.testing.assert_allclose(losses.importance_weighted_bound(log_weights), expected, rtol=1e-6)


def test_a_free_variable_is_not_pushed_towards_the_prior():
    gradient = jax.grad(lambda mean: free_bits_of(mean, LOG_VAR * 0))
    small, large = jnp.full((6, 3), 0.1), jnp.full((6, 3), 3.0)
    np.testing.assert_array_equal(gradient(small), 0.0)
    assert np.all(np.asarray(gradient(large)) > 0)


def test_without_options_the_loss_is_the_negative_elbo(state):
    # Operation by operation, not compiled: the same ones give the same bits.
    key = jax.random.key(0)
    loss, (terms, numbers) = training_loss(Objective(), MODEL, state.params, BATCH, key, None, 0)
    posterior = MODEL.apply({"params": state.params}, BATCH, method="posterior")
    latents = posterior.sample(key).latents
    outputs = MODEL.apply({"params": state.params}, latents, BATCH, method="decode")
    expected = losses.negative_elbo(
        LIKELIHOOD.log_prob(outputs, PIXELS), PRIOR.kl(posterior.mean, posterior.log_var)
    )
    np.testing.assert_array_equal(terms["loss"], expected["loss"])
    assert loss == expected["loss"].mean()
    assert list(terms) == ["loss", "reconstruction", "kl"]
    assert numbers == {}


def test_sampling_and_dropout_have_their_own_keys(state):
    model = small_vae(dropout_rate=0.5, dropout_after=(0,))
    # The KL of a sample, which shows the sample.
    model = dataclasses.replace(model, prior=GaussianMixture(3, 2))
    params = steps.initial_state(make_settings(model), seed=0).params
    keys = jax.random.split(jax.random.key(1))
    compute = jax.jit(training_loss, static_argnums=(0, 1))
    plain, dropped, otherwise = (
        compute(Objective(), model, params, BATCH, keys[0], dropout_key, 0)[1][0]
        for dropout_key in (None, *keys)
    )
    for terms in (dropped, otherwise):
        np.testing.assert_array_equal(terms["kl"], plain["kl"])
        assert not np.allclose(terms["reconstruction"], plain["reconstruction"], rtol=1e-6)
    assert not np.allclose(dropped["reconstruction"], otherwise["reconstruction"], rtol=1e-6)


@pytest.mark.parametrize("step", [0, 5, 10, 99])
def test_warm_up_weighs_the_kl(state, step):
    loss, terms = loss_of(Objective(kl_weight=2.0, kl_warmup_steps=10), state, step=step)
    weight = 2.0 * min(1.0, step / 10)
    expected = terms["reconstruction"].mean() + weight * terms["kl"].mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_free_bits_replace_the_kl_of_the_batch(state):
    loss, terms = loss_of(Objective(free_bits=0.7), state)
    posterior = posterior_of(state.params)
    kl = losses.free_bits_kl(KL_PER_DIMENSION(posterior.mean, posterior.log_var), 0.7)
    assert kl > terms["kl"].mean()
    assert float(loss) == pytest.approx(float(terms["reconstruction"].mean() + kl), rel=1e-6)
    # What is written of the step stays the plain bound's terms.
    np.testing.assert_allclose(terms["loss"], terms["reconstruction"] + terms["kl"], rtol=1e-6)


def test_the_weight_of_the_kl_is_a_number_of_the_step_during_a_warmup(state):
    compute = jax.jit(training_loss, static_argnums=(0, 1))

    def numbers_of(step, **options):
        keys = jax.random.key(0), None
        return compute(Objective(**options), MODEL, state.params, BATCH, *keys, step)[1][1]

    for options in ({}, {"free_bits": 0.5}):
        warmup = options | {"kl_weight": 2.0, "kl_warmup_steps": 8}
        weights = [float(numbers_of(step, **warmup)["kl_weight"]) for step in (0, 3, 8, 20)]
        assert weights == [0.0, 0.75, 2.0, 2.0]
        assert numbers_of(3, **options) == {}
    assert numbers_of(3, num_importance_samples=2) == {}


def test_weights_are_the_three_densities(state):
    posterior = posterior_of(state.params)
    sample = posterior.sample(jax.random.key(3), 2)
    log_weights, log_likelihood = apply(MODEL, state.params, BATCH, sample, method="log_weights_of")
    mean, scale = np.asarray(posterior.mean), np.exp(np.asarray(posterior.log_var) / 2)
    for index in range(2):
        z = np.asarray(sample.latents[index])
        logits = apply(MODEL, state.params, z, BATCH, method="decode")
        likelihood = (
            scipy.stats.bernoulli(scipy.special.expit(logits)).logpmf(PIXELS).sum((1, 2, 3))
        )
        expected = likelihood + scipy.stats.norm.logpdf(z).sum(1)
        expected -= scipy.stats.norm(mean, scale).logpdf(z).sum(1)
        np.testing.assert_allclose(log_likelihood[index], likelihood, rtol=1e-4)
        np.testing.assert_allclose(log_weights[index], expected, rtol=1e-4)


@pytest.mark.slow
def test_with_one_sample_the_bound_is_the_elbo_on_average(state):
    """Of both the loss and its gradient: only the KL's estimate differs."""

    encoder = state.params["encoder"]
    kernel = encoder["mean"]["kernel"]

    def with_kernel(kernel):
        return state.params | {"encoder": encoder | {"mean": encoder["mean"] | {"kernel": kernel}}}

    def elbo(kernel, key):
        params = with_kernel(kernel)
        return training_loss(Objective(), MODEL, params, BATCH, key, None, 0)[0]

    def bound(kernel, key):
        params = with_kernel(kernel)
        sample = posterior_of(params).sample(key, 1)
        log_weights, _ = apply(MODEL, params, BATCH, sample, method="log_weights_of")
        return -losses.importance_weighted_bound(log_weights).mean()

    keys = jax.random.split(jax.random.key(1), 2000)
    means = {}
    for function in (elbo, bound):
        draw = functools.partial(jax.value_and_grad(function), kernel)
        values, gradients = jax.lax.map(draw, keys, batch_size=100)
        means[function] = float(values.mean()), np.asarray(gradients.mean(0))
    assert means[bound][0] == pytest.approx(means[elbo][0], abs=0.1)
    scale = np.abs(means[elbo][1]).max()
    np.testing.assert_allclose(means[bound][1], means[elbo][1], atol=0.1 * scale)


@pytest.mark.slow
def test_more_samples_give_a_tighter_bound(state):
    params = jax.tree.map(lambda leaf: 1.5 * leaf, state.params)
    losses_of_k = [
        np.mean(
            [
                loss_of(Objective(num_importance_samples=k), state, params, key=i)[0]
                for i in range(10)
            ]
        )
        for k in (2, 8, 64)
    ]
    assert losses_of_k[0] > losses_of_k[1] > losses_of_k[2]


def test_the_samples_begin_after_the_epochs_of_the_elbo():
    objective = Objective(num_importance_samples=5, elbo_warmup_epochs=2)
    one, several = Objective(), Objective(num_importance_samples=5)
    assert [objective.of_epoch(epoch) for epoch in (1, 2, 3, 4)] == [one, one, several, several]
    assert several.of_epoch(1) == several
    assert Objective(free_bits=0.5).of_epoch(1) == Objective(free_bits=0.5)


def test_evaluation_is_of_the_bound_that_is_trained(state):
    keys = jax.random.split(jax.random.key(5), len(PIXELS))
    compute = jax.jit(evaluation_terms, static_argnums=(0, 1))
    terms = compute(Objective(num_importance_samples=3), MODEL, state.params, BATCH, keys)
    posterior = posterior_of(state.params)
    sample = posterior.sample(keys, 3)
    noise = np.stack([jax.random.normal(key, (3, 3)) for key in keys], axis=1)
    scale = np.exp(np.asarray(posterior.log_var) / 2)
    np.testing.assert_allclose(sample.latents, posterior.mean + scale * noise, rtol=1e-5, atol=1e-6)
    weights, log_likelihood = apply(MODEL, state.params, BATCH, sample, method="log_weights_of")
    expected = np.log(3) - scipy.special.logsumexp(weights, axis=0)
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(terms["reconstruction"], -log_likelihood.mean(0), rtol=1e-5)
    kl = 0.5 * (np.exp(posterior.log_var) + posterior.mean**2 - 1 - posterior.log_var).sum(1)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-4)
    assert np.all(np.asarray(terms["loss"]) < -np.asarray(weights).mean(0))  # Jensen


@pytest.mark.parametrize(
    "options",
    [{"kl_warmup_steps": 10}, {"free_bits": 0.5}, {"num_importance_samples": 4}],
    ids=lambda options: next(iter(options)),
)
def test_a_step_takes_the_gradient_of_its_objective(state, options):
    settings = make_settings(MODEL, evaluation={"objective": Objective(**options)})
    before = dataclasses.replace(state, step=jnp.int32(3))
    keys = [stream_key(state.root_key, s, 3) for s in (Stream.POSTERIOR, Stream.DROPOUT)]

    @jax.jit
    def step_of_sgd(params):
        objective = settings.evaluation.objective
        gradient = jax.grad(
            lambda params: training_loss(objective, MODEL, params, BATCH, *keys, 3)[0]
        )(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    expected = step_of_sgd(state.params)
    batch = Batch((PIXELS * 255).astype(np.uint8))
    after, _ = train_step(settings, jax.tree.map(jnp.copy, before), batch)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5), after.params, expected
    )
