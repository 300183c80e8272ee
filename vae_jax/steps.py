"""Every compiled program of the package: the only place that jits.

With more than one replica every array of a train state has a leading axis, one entry for each
seed; where a function's docstring says `[...]`, that axis is there too.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax import distributions, losses
from vae_jax.losses import NegativeElbo
from vae_jax.streams import Stream, stream_key
from vae_jax.train_state import TrainState, create_train_state
from vae_jax.vae import VAE

MAX_PIXEL = 255.0


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What is fixed when a training step is compiled.

    Attributes:
      model: the autoencoder.
      optimizer: the Optax transformation of its gradients.
      batch_size: images in a step.
      kl_weight: weight of the KL term in the loss.
      binarize: whether each pixel is drawn anew, 1 with probability of its grey value.
      num_replicas: how many seeds are trained side by side.
    """

    model: VAE
    optimizer: optax.GradientTransformation
    batch_size: int
    kl_weight: float = 1.0
    binarize: bool = False
    num_replicas: int = 1


def _for_each_replica(settings: StepSettings, function: Callable, **axes: Any) -> Callable:
    """The function for all replicas at once; itself where there is one."""
    return function if settings.num_replicas == 1 else jax.vmap(function, **axes)


@functools.partial(jax.jit, static_argnames="settings")
def _initial_state(settings: StepSettings, seeds: jax.Array) -> TrainState:
    create = functools.partial(create_train_state, settings.model, settings.optimizer)
    # One after another, not by vmap: QR decompositions of batches, of which the LSTM's
    # orthogonal kernels are made, can wait for each other for ever on a CPU of two cores.
    return create(seeds) if settings.num_replicas == 1 else jax.lax.map(create, seeds)


def _seeds(settings: StepSettings, seed: int) -> np.ndarray:
    seeds = np.arange(seed, seed + settings.num_replicas, dtype=np.uint32)
    return seeds if settings.num_replicas > 1 else seeds[0]


def initial_state(settings: StepSettings, seed: int) -> TrainState:
    """The state before the first step; replica i has the seed `seed + i`."""
    return _initial_state(settings, _seeds(settings, seed))


def abstract_state(settings: StepSettings) -> TrainState:
    """The shapes and types of a state: what a checkpoint is restored into."""
    return jax.eval_shape(lambda: initial_state(settings, 0))


def replica(state: TrainState, index: int) -> TrainState:
    """One replica's state out of those of several."""
    return jax.tree.map(lambda leaf: leaf[index], state)


@functools.partial(jax.jit, static_argnames=("settings", "num_images"))
def epoch_order(
    settings: StepSettings, root_key: jax.Array, epoch: int, num_images: int
) -> jax.Array:
    """The order in which an epoch sees the training images: `<int32>[..., num_images]`."""

    def order(root_key: jax.Array) -> jax.Array:
        return jax.random.permutation(stream_key(root_key, Stream.DATA_ORDER, epoch), num_images)

    return _for_each_replica(settings, order)(root_key)


def _to_pixels(images: jax.Array) -> jax.Array:
    """Grey values `<uint8>` to `<float32>` in [0, 1]."""
    return images.astype(jnp.float32) / MAX_PIXEL


def _train_step(
    settings: StepSettings, state: TrainState, images: jax.Array
) -> tuple[TrainState, NegativeElbo]:
    sample_key, dropout_key, binarization_key = (
        stream_key(state.root_key, stream, state.step)
        for stream in (Stream.POSTERIOR, Stream.DROPOUT, Stream.BINARIZATION)
    )
    pixels = _to_pixels(images)
    if settings.binarize:
        pixels = jax.random.bernoulli(binarization_key, pixels).astype(jnp.float32)

    def mean_loss(params: Any) -> tuple[jax.Array, NegativeElbo]:
        output = settings.model.apply({"params": params}, pixels, sample_key, dropout_key)
        terms = losses.negative_elbo(
            output.logits, pixels, output.mean, output.log_var, settings.kl_weight
        )
        return terms.loss.mean(), terms

    gradients, terms = jax.grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = settings.optimizer.update(gradients, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
    )
    return state, jax.tree.map(jnp.sum, terms)


def _train_steps(
    settings: StepSettings, state: TrainState, images: jax.Array
) -> tuple[TrainState, NegativeElbo]:
    step = functools.partial(_train_step, settings)
    return _for_each_replica(settings, step)(state, images)


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="state")
def train_step(
    settings: StepSettings, state: TrainState, images: jax.Array
) -> tuple[TrainState, NegativeElbo]:
    """One update of the parameters.

    Args:
      settings: model, optimiser and loss.
      state: consumed: its buffers hold the new state.
      images: `<uint8>[..., batch, 28, 28]`.

    Returns:
      The new state, and the loss and its terms summed over the batch, each `<float>[...]`.
    """
    return _train_steps(settings, state, images)


@functools.partial(jax.jit, static_argnames=("settings", "num_steps"), donate_argnames="state")
def train_epoch(
    settings: StepSettings,
    state: TrainState,
    images: jax.Array,
    order: jax.Array,
    first_batch: int,
    num_steps: int,
) -> tuple[TrainState, NegativeElbo]:
    """A stretch of an epoch as one loop on the device.

    Args:
      settings: model, optimiser and loss.
      state: consumed: its buffers hold the new state.
      images: `<uint8>[num_images, 28, 28]`, all training images.
      order: `<int32>[..., num_images]`, the epoch's order.
      first_batch: the epoch's batch to begin with, from 0.
      num_steps: how many steps to take.

    Returns:
      The new state, and the loss and its terms summed over each batch,
      `<float>[num_steps, ...]`.
    """

    def body(state: TrainState, batch: jax.Array) -> tuple[TrainState, NegativeElbo]:
        start = batch * settings.batch_size
        indices = jax.lax.dynamic_slice_in_dim(order, start, settings.batch_size, axis=-1)
        return _train_steps(settings, state, images[indices])

    return jax.lax.scan(body, state, first_batch + jnp.arange(num_steps))


@functools.partial(jax.jit, static_argnames="settings")
def evaluate_batch(
    settings: StepSettings,
    params: Any,
    root_key: jax.Array,
    images: jax.Array,
    indices: jax.Array,
) -> NegativeElbo:
    """Loss and terms of each image, dropout off, one latent sample an image.

    An image's noise comes from its index in the split, so that neither the batch size nor
    the epoch changes it.

    Args:
      settings: model and loss.
      params: the model's parameters.
      root_key: the run's root key.
      images: `<uint8>[batch, 28, 28]`.
      indices: `<int>[batch]`, each image's place in its split.

    Returns:
      The loss and its terms, each `<float>[batch, ...]`, nats per image.
    """
    pixels = _to_pixels(images)

    def evaluate(params: Any, root_key: jax.Array) -> NegativeElbo:
        keys = jax.vmap(lambda index: stream_key(root_key, Stream.EVALUATION, index))(indices)
        mean, log_var = settings.model.apply({"params": params}, pixels, method="encode")
        latents = jax.vmap(distributions.sample_gaussian)(keys, mean, log_var)
        logits = settings.model.apply({"params": params}, latents, method="decode")
        return losses.negative_elbo(logits, pixels, mean, log_var, settings.kl_weight)

    return _for_each_replica(settings, evaluate, out_axes=-1)(params, root_key)


@functools.partial(jax.jit, static_argnames="model")
def encode(model: VAE, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance of q(z | x) for `<uint8>[batch, 28, 28]` images."""
    return model.apply({"params": params}, _to_pixels(images), method="encode")


@functools.partial(jax.jit, static_argnames="model")
def decode(model: VAE, params: Any, latents: jax.Array) -> jax.Array:
    """Pixel means in [0, 1], `<float>[batch, 28, 28]`, of `<float>[batch, latent]`."""
    return jax.nn.sigmoid(model.apply({"params": params}, latents, method="decode"))


@functools.partial(jax.jit, static_argnames=("model", "num_images"))
def generate(model: VAE, params: Any, root_key: jax.Array, num_images: int) -> jax.Array:
    """Pixel means in [0, 1], `<float>[num_images, 28, 28]`, of latents drawn from the prior."""
    key = stream_key(root_key, Stream.PRIOR_SAMPLES)
    return model.apply({"params": params}, key, num_images, method="generate")
