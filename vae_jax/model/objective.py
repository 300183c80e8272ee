"""What a run minimizes, plain ELBO or not, and its value on images it is not trained on."""

import dataclasses
import functools

import jax

from vae_jax.model import distributions, losses
from vae_jax.model.losses import LossTerms
from vae_jax.model.vae import VAE, Params, apply


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimized; as it stands, the negative ELBO.

    Attributes:
      kl_weight: weight of the KL term.
      kl_warmup_steps: steps of the ELBO over which that weight grows from 0; 0 for none.
      free_bits: KL in nats, on average over a batch, below which a latent variable costs nothing
        more or less.
      num_importance_samples: latent samples for each image; with more than one, the negative
        importance-weighted bound, for which the weight is 1 and there are no free bits.
      path_gradient: whether gradients reach the encoder through samples alone, and not through
        the density of q: "sticking the landing" (Roeder et al. 2017) where the KL is that of a
        sample; doubly reparameterized gradients (Tucker et al. 2019, arXiv:1810.04152, equation
        8) with several samples.
      elbo_warmup_epochs: epochs of one sample before it is as many (Burda et al. 2016, table 2).
    """

    kl_weight: float = 1.0
    kl_warmup_steps: int = 0
    free_bits: float = 0.0
    num_importance_samples: int = 1
    path_gradient: bool = False
    elbo_warmup_epochs: int = 0

    def of_epoch(self, epoch: int) -> "Objective":
        """Returns what is minimized in an epoch, numbered from 1."""
        num_samples = self.num_importance_samples if epoch > self.elbo_warmup_epochs else 1
        return dataclasses.replace(self, num_importance_samples=num_samples, elbo_warmup_epochs=0)


NEGATIVE_ELBO = Objective()


def training_loss(
    objective: Objective,
    model: VAE,
    params: Params,
    pixels: jax.Array,
    sample_key: jax.Array,
    dropout_key: jax.Array | None,
    step: int | jax.Array,
) -> tuple[jax.Array, LossTerms]:
    """Computes the scalar to minimize, in nats per image, and its terms for each image.

    Args:
      objective: what to minimize.
      model: the autoencoder.
      params: its parameters.
      pixels: `<float>[batch, height, width, channels]`, intensities in [0, 1].
      sample_key: key of the latent samples.
      dropout_key: key of the decoder's dropout; without one dropout is off.
      step: `<int32>[]`, how many steps were taken before.
    """
    if objective.num_importance_samples > 1:
        mean, log_var = apply(model, params, pixels, method="encode")
        noise = _noise_of_several(objective.num_importance_samples, sample_key, mean)
        weigh = functools.partial(
            apply, model, params, pixels, mean, log_var, noise, dropout_key, method="log_weights"
        )
        if objective.path_gradient:
            # The weights' normalized values alone; the compiler sees that they are computed twice.
            scale = jax.nn.softmax(jax.lax.stop_gradient(weigh()[0]), axis=0)
            log_weights, log_likelihood = weigh(scale)
        else:
            log_weights, log_likelihood = weigh()
        kl = apply(model, params, mean, log_var, noise[0], method="kl")
        terms = _importance_weighted_terms(log_weights, log_likelihood, kl)
        return terms.loss.mean(), terms
    kl_weight: float | jax.Array = objective.kl_weight
    if objective.kl_warmup_steps:
        kl_weight = kl_weight * losses.linear_warmup(step, objective.kl_warmup_steps)
    output = apply(model, params, pixels, sample_key, dropout_key)
    posterior = (output.mean, output.log_var)
    kl = apply(model, params, *posterior, output.noise, objective.path_gradient, method="kl")
    terms = losses.negative_elbo(model.likelihood.log_prob(output.outputs, pixels), kl, kl_weight)
    if not objective.free_bits:
        return terms.loss.mean(), terms
    each = apply(model, params, *posterior, method="kl_per_dimension")
    kl_with_free_bits = losses.free_bits_kl(each, objective.free_bits)
    return terms.reconstruction.mean() + kl_weight * kl_with_free_bits, terms


def evaluation_terms(
    objective: Objective, model: VAE, params: Params, pixels: jax.Array, sample_keys: jax.Array
) -> LossTerms:
    """Computes the loss and its terms for each image: no dropout, no warmup, no free bits.

    Args:
      objective: what is minimized.
      model: the autoencoder.
      params: its parameters.
      pixels: `<float>[batch, height, width, channels]`, intensities in [0, 1].
      sample_keys: `<key>[batch]`, of each image's latent samples.
    """
    mean, log_var = apply(model, params, pixels, method="encode")
    num_samples = objective.num_importance_samples
    if num_samples > 1:
        draw = functools.partial(_noise_of_several, num_samples)
        noise = jax.vmap(draw, out_axes=1)(sample_keys, mean)
        # One sample of every image at a time: memory does not grow with their number.
        log_weights, log_likelihood = jax.lax.map(
            lambda e: apply(model, params, pixels, mean, log_var, e, method="log_weights"),
            noise[:, None],
        )
        kl = apply(model, params, mean, log_var, noise[0], method="kl")
        return _importance_weighted_terms(log_weights[:, 0], log_likelihood[:, 0], kl)
    draw = functools.partial(jax.random.normal, shape=mean.shape[1:], dtype=mean.dtype)
    noise = jax.vmap(draw)(sample_keys)
    latents = distributions.reparameterize(mean, log_var, noise)
    outputs = apply(model, params, latents, method="decode")
    kl = apply(model, params, mean, log_var, noise, method="kl")
    return losses.negative_elbo(model.likelihood.log_prob(outputs, pixels), kl, objective.kl_weight)


def _noise_of_several(num_samples: int, key: jax.Array, mean: jax.Array) -> jax.Array:
    """Draws the noise of samples of the same Gaussians, `<float>[num_samples, ...]`."""
    return jax.random.normal(key, (num_samples, *mean.shape), mean.dtype)


def _importance_weighted_terms(
    log_weights: jax.Array, log_likelihood: jax.Array, kl: jax.Array
) -> LossTerms:
    """Computes the negative bound of each image, as loss, and the plain terms beside it."""
    return LossTerms(
        loss=-losses.importance_weighted_bound(log_weights),
        reconstruction=-log_likelihood.mean(0),
        kl=kl,
    )
