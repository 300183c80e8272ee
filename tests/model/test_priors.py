"""The priors against SciPy, and that the parts of the model ask them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from tests.support.common import apply, make_settings, small_vae
from vae_jax.evaluation import generation, latent_statistics
from vae_jax.model import distributions
from vae_jax.model.objective import Objective, training_loss
from vae_jax.model.priors import StandardNormal
from vae_jax.model.structs import Batch
from vae_jax.training import steps

RNG = np.random.RandomState(0)
MEAN, LOG_VAR, LATENTS = RNG.normal(size=(3, 5, 4)).astype(np.float32)
PRIOR = StandardNormal(latent_size=4)


def test_the_standard_normal_is_scipys():
    expected = scipy.stats.norm.logpdf(LATENTS).sum(1)
    np.testing.assert_allclose(PRIOR.log_density(LATENTS), expected, rtol=1e-5)
    samples = PRIOR.sample(jax.random.key(0), 20_000)
    assert samples.shape == (20_000, 4)
    assert scipy.stats.kstest(np.ravel(samples), "norm").pvalue > 1e-3


def test_its_kl_is_the_gaussians():
    expected = distributions.gaussian_kl(MEAN, LOG_VAR)
    np.testing.assert_array_equal(PRIOR.kl(MEAN, LOG_VAR), expected)
    each = PRIOR.kl_per_dimension(MEAN, LOG_VAR)
    np.testing.assert_allclose(each.sum(1), expected, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Shifted(StandardNormal):
    """N(3, I): a prior of one's own, which nothing but `create_vae` would have to know."""

    def log_density(self, latents):
        return super().log_density(latents - 3.0)

    def sample(self, key, num_samples):
        return super().sample(key, num_samples) + 3.0

    def kl_per_dimension(self, mean, log_var):
        return super().kl_per_dimension(mean - 3.0, log_var)

    def kl(self, mean, log_var):
        return super().kl(mean - 3.0, log_var)


def test_another_prior_is_asked_by_losses_bound_generation_and_statistics():
    plain = small_vae(4)
    model = dataclasses.replace(plain, prior=Shifted(4))
    state = steps.initial_state(make_settings(plain), seed=0)
    params, key = state.params, jax.random.key(1)
    batch = Batch(jnp.asarray(RNG.uniform(size=(3, 28, 28, 1)) < 0.2, jnp.float32))
    posterior = apply(plain, params, batch, method="posterior")
    shift = (9.0 / 2 * 4 - 3.0 * posterior.mean.sum(1)).mean()  # of the KL, by its formula
    compute = jax.jit(training_loss, static_argnums=(0, 1))
    for objective in (Objective(), Objective(free_bits=1e-6)):
        losses = [compute(objective, m, params, batch, key, None, 0)[0] for m in (plain, model)]
        np.testing.assert_allclose(losses[1] - losses[0], shift, rtol=1e-4)
    sample = posterior.sample(key, 2)
    weights = [apply(m, params, batch, sample, method="log_weights_of")[0] for m in (plain, model)]
    z = sample.latents
    expected = scipy.stats.norm.logpdf(z, 3.0).sum(2) - scipy.stats.norm.logpdf(z).sum(2)
    np.testing.assert_allclose(weights[1] - weights[0], expected, rtol=1e-3, atol=1e-3)
    posterior = jax.tree.map(np.asarray, posterior)
    kl, plain_kl = (latent_statistics.kl_per_dimension(m.prior, posterior) for m in (model, plain))
    np.testing.assert_allclose(np.subtract(kl, plain_kl).sum(), shift, rtol=1e-4)
    samples = [generation.sample(m, params, key, 3) for m in (plain, model)]
    assert not np.allclose(*samples, atol=1e-3)
