"""A prior fitted to the posteriors of a trained model, whose encoder and decoder stay as they are.

The loss is -log p(z) of posterior samples: all of the negative ELBO that depends on the prior.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from vae_jax.datasets import Dataset
from vae_jax.evaluation import generation
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import StandardNormal
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime import devices
from vae_jax.training.batches import to_batch

_NUM_EPOCHS = 40
_BATCH_SIZE = 100
_LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class PriorFit:
    """What fitting a prior came to, in nats per image.

    Attributes:
      epoch: the epoch with the lowest validation loss; 0 where none is below the beginning.
      train: -log p(z) of the training images' posterior samples, of each epoch.
      validation: that of the validation images', before the first epoch and after each.
      standard_normal: that of the standard normal, of the same validation samples.
    """

    epoch: int
    train: list[float]
    validation: list[float]
    standard_normal: float


def _join(params: Params, prior: Params) -> Params:
    return {**params, "prior": prior}


@functools.partial(jax.jit, static_argnames="model")
def _binarize_and_encode(
    model: VAE, params: Params, key: jax.Array, batch: Batch, indices: jax.Array
) -> Posterior:
    """Draws pixels as training does and encodes them, an image's decided by its index."""
    batch = batch.to_intensities()

    def draw(index: jax.Array, image: Batch) -> Batch:
        return image.binarize(jax.random.fold_in(key, index))

    return apply(model, params, jax.vmap(draw)(indices, batch), method="posterior")


def _posteriors_of_epoch(
    model: VAE, params: Params, root_key: jax.Array, data: Batch, is_binarized: bool
) -> Callable[[int], Posterior]:
    """Returns a function from epoch to posteriors; binarized pixels are redrawn each epoch."""
    if not is_binarized:
        posterior = generation.encode(model, params, data)
        return lambda epoch: posterior
    indices = np.arange(len(data), dtype=np.int32)

    def encode(epoch: int) -> Posterior:
        key = stream_key(root_key, Stream.PRIOR_FIT_PIXELS, epoch)
        encode_batch = functools.partial(_binarize_and_encode, model, params, key)
        return generation.map_rows(encode_batch, data, indices)

    return encode


@functools.partial(jax.jit, static_argnames="model")
def _loss(
    model: VAE, params: Params, key: jax.Array, posterior: Posterior, batch: Batch
) -> jax.Array:
    """Computes the mean -log p(z) of one sample of each posterior."""
    latents = posterior.sample(key).latents
    log_density = apply(model, params, method=lambda model: model.prior(batch).log_density(latents))
    return -log_density.mean()


@functools.partial(jax.jit, static_argnames=("model", "optimizer"), donate_argnums=(3, 4))
def _train_epoch(
    model: VAE,
    optimizer: optax.GradientTransformation,
    params: Params,
    prior: Params,
    opt_state: optax.OptState,
    key: jax.Array,
    posterior: Posterior,
    batch: Batch,
) -> tuple[Params, optax.OptState, jax.Array]:
    """Takes an epoch's steps; returns the prior's parameters and the mean loss of the steps."""
    num_images = len(jax.tree.leaves(posterior)[0])
    batch_size = min(_BATCH_SIZE, num_images)
    num_steps = num_images // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, num_steps), num_images)
    batches = order[: num_steps * batch_size].reshape(num_steps, batch_size)

    def step(carry: tuple[Params, optax.OptState], step_rows: tuple[jax.Array, jax.Array]):
        prior, opt_state = carry
        number, rows = step_rows
        step_key = jax.random.fold_in(key, number)
        chosen = jax.tree.map(lambda array: array[rows], (posterior, batch))
        loss, gradient = jax.value_and_grad(
            lambda prior: _loss(model, _join(params, prior), step_key, *chosen)
        )(prior)
        updates, opt_state = optimizer.update(gradient, opt_state, prior)
        return (optax.apply_updates(prior, updates), opt_state), loss

    steps = (jnp.arange(num_steps), batches)
    (prior, opt_state), losses = jax.lax.scan(step, (prior, opt_state), steps)
    return prior, opt_state, losses.mean()


def fit_prior(
    model: VAE,
    params: Params,
    prior: Params,
    root_key: jax.Array,
    dataset: Dataset,
    is_binarized: bool,
) -> tuple[Params, PriorFit]:
    """Fits a prior's parameters to posterior samples; the validation images choose the epoch.

    Adam with a rate of 0.001 that falls by a cosine, batches of 100 images or of all.

    Args:
      model: the autoencoder, with that prior.
      params: its other parameters.
      prior: where the prior's begin.
      root_key: decides samples and order.
      dataset: the images.
      is_binarized: whether the training images' pixels are drawn anew in each epoch.

    Returns:
      The prior's parameters, and what they come to.
    """
    train_data, held_out_data = to_batch(dataset.train), to_batch(dataset.validation)
    draw_posteriors = _posteriors_of_epoch(model, params, root_key, train_data, is_binarized)
    held_out = devices.to_device(
        (generation.encode(model, params, held_out_data), held_out_data.without_images())
    )
    known = devices.to_device(train_data.without_images())
    held_out_key = stream_key(root_key, Stream.PRIOR_FIT)
    latents = held_out[0].sample(held_out_key).latents
    standard_normal = -StandardNormal(latents.shape[-1]).log_density(latents).mean()
    num_steps = max(len(dataset.train) // _BATCH_SIZE, 1)
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _NUM_EPOCHS * num_steps))
    opt_state = optimizer.init(prior)

    def validate() -> float:
        return float(_loss(model, _join(params, prior), held_out_key, *held_out))

    best, train, validation = jax.device_get(prior), [], [validate()]
    epochs = tqdm(range(1, _NUM_EPOCHS + 1), unit=" epochs", disable=not sys.stderr.isatty())
    for epoch in epochs:
        posteriors = devices.to_device(draw_posteriors(epoch))
        key = stream_key(root_key, Stream.PRIOR_FIT, epoch)
        prior, opt_state, loss = _train_epoch(
            model, optimizer, params, prior, opt_state, key, posteriors, known
        )
        train.append(float(loss))
        validation.append(validate())
        epochs.set_postfix_str(f"validation {validation[-1]:.2f}")
        if validation[-1] == min(validation):
            best = jax.device_get(prior)
    epoch = int(np.argmin(validation))
    return best, PriorFit(epoch, train, validation, float(standard_normal))
