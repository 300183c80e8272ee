"""The objective that a run minimizes, and its value on images it is not trained on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from vae_jax.model import losses
from vae_jax.model.posterior import LatentSample, Posterior
from vae_jax.model.structs import Batch, StepNumbers, Terms
from vae_jax.model.vae import VAE, Params, apply


@dataclasses.dataclass(frozen=True)
class Objective:
    """The objective to minimize; by default the negative ELBO."""

    kl_weight: float = 1.0  # weight of the KL term
    kl_warmup_steps: int = 0  # steps of the ELBO over which that weight grows from 0; 0 for none
    # KL in nats, on average over a batch, below which a latent variable costs the same.
    free_bits: float = 0.0
    # Latent samples for each image; with more than one, the negative importance-weighted bound,
    # for which the weight is 1 and there are no free bits.
    num_importance_samples: int = 1
    # Whether gradients reach the encoder through samples alone, and not through the density of q:
    # "sticking the landing" (Roeder et al. 2017) where the KL is that of a sample; doubly
    # reparameterized gradients (Tucker et al. 2019, arXiv:1810.04152, equation 8) with several.
    path_gradient: bool = False
    elbo_warmup_epochs: int = 0  # of one sample before several (Burda et al. 2016, table 2)

    def of_epoch(self, epoch: int) -> "Objective":
        """Returns the objective of an epoch, numbered from 1."""
        num_samples = self.num_importance_samples if epoch > self.elbo_warmup_epochs else 1
        return dataclasses.replace(self, num_importance_samples=num_samples, elbo_warmup_epochs=0)


def training_loss(
    objective: Objective,
    model: VAE,
    params: Params,
    batch: Batch,
    sample_key: jax.Array,
    dropout_key: jax.Array | None,
    step: int | jax.Array,
) -> tuple[jax.Array, tuple[Terms, StepNumbers]]:
    """Computes the scalar to minimize, in nats per image, of intensities in [0, 1].

    Without a dropout key dropout is off; `step` is the number of steps taken before. Returns the
    scalar, its terms for each image, and numbers of the step: "kl_weight" with a warmup.
    """
    posterior = apply(model, params, batch, method="posterior")
    if objective.num_importance_samples > 1:
        draw = functools.partial(
            posterior.sample, sample_key, objective.num_importance_samples, objective.path_gradient
        )

        def weigh(sample: LatentSample) -> tuple[jax.Array, jax.Array]:
            return apply(model, params, batch, sample, dropout_key, method="log_weights_of")

        sample = draw()
        log_weights, log_likelihood = weigh(sample)
        if objective.path_gradient:
            # The compiler sees that the weights are computed twice.
            scale = jax.nn.softmax(jax.lax.stop_gradient(log_weights), axis=0)
            log_weights, log_likelihood = weigh(draw(gradient_scale=scale))
        kl = _kl(model, params, batch, posterior, sample[0])
        terms = _importance_weighted_terms(log_weights, log_likelihood, kl)
        return terms["loss"].mean(), (terms, {})
    kl_weight: float | jax.Array = objective.kl_weight
    numbers = {}
    if objective.kl_warmup_steps:
        # Bowman et al. 2016 (arXiv:1511.06349), section 3.1; linear as in Sønderby et al. 2016
        # (arXiv:1602.02282).
        kl_weight = kl_weight * jnp.minimum(1.0, jnp.float32(step) / objective.kl_warmup_steps)
        numbers["kl_weight"] = kl_weight
    sample = posterior.sample(sample_key, path_gradient=objective.path_gradient)
    log_likelihood = apply(
        model, params, sample.latents, batch, dropout_key, method="log_likelihood"
    )
    kl = _kl(model, params, batch, posterior, sample)
    terms = losses.negative_elbo(log_likelihood, kl, kl_weight)
    if not objective.free_bits:
        return terms["loss"].mean(), (terms, numbers)
    kl_per_dimension = posterior.kl_per_dimension(model.prior)
    kl_with_free_bits = losses.free_bits_kl(kl_per_dimension, objective.free_bits)
    return terms["reconstruction"].mean() + kl_weight * kl_with_free_bits, (terms, numbers)


def evaluation_terms(
    objective: Objective, model: VAE, params: Params, batch: Batch, sample_keys: jax.Array
) -> Terms:
    """Computes each image's terms with `<key>[batch]`: no dropout, no warmup, no free bits."""
    posterior = apply(model, params, batch, method="posterior")
    num_samples = objective.num_importance_samples
    if num_samples > 1:
        sample = posterior.sample(sample_keys, num_samples)
        # One sample of every image at a time: memory does not grow with their number.
        log_weights, log_likelihood = jax.lax.map(
            lambda one: apply(model, params, batch, one, method="log_weights_of"), sample[:, None]
        )
        kl = _kl(model, params, batch, posterior, sample[0])
        return _importance_weighted_terms(log_weights[:, 0], log_likelihood[:, 0], kl)
    sample = posterior.sample(sample_keys)
    log_likelihood = apply(model, params, sample.latents, batch, method="log_likelihood")
    kl = _kl(model, params, batch, posterior, sample)
    return losses.negative_elbo(log_likelihood, kl, objective.kl_weight)


def _kl(
    model: VAE, params: Params, batch: Batch, posterior: Posterior, sample: LatentSample
) -> jax.Array:
    """Computes KL(q(z | x) || p(z)) of each image, as `Posterior.kl` does."""
    return apply(model, params, method=lambda model: posterior.kl(model.prior(batch), sample))


def _importance_weighted_terms(
    log_weights: jax.Array, log_likelihood: jax.Array, kl: jax.Array
) -> Terms:
    """Computes the negative bound of each image, as loss, and the plain terms beside it."""
    return {
        "loss": -losses.importance_weighted_bound(log_weights),
        "reconstruction": -log_likelihood.mean(0),
        "kl": kl,
    }
