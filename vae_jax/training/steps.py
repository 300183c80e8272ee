"""The compiled programs of training: initial state, data order, steps.

Where a docstring says `[...]`, that axis has one entry for each replica if there are several.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax.model import batch_axis
from vae_jax.model.initialization import tensorflow_params, with_data_bias, with_pseudo_inputs
from vae_jax.model.objective import training_loss
from vae_jax.model.rng_streams import Stream, make_root_key, stream_key
from vae_jax.model.structs import Batch, StepNumbers, Terms
from vae_jax.model.vae import Params
from vae_jax.runtime import devices
from vae_jax.training.metrics import StepMetrics
from vae_jax.training.settings import TrainSettings
from vae_jax.training.train_state import MovingAverage, TrainState, init_params

MAX_CHUNK_STEPS = 32


@functools.partial(jax.jit, static_argnames="settings")
def _initial_state(
    settings: TrainSettings,
    seeds: jax.Array | np.ndarray,
    mean_image: jax.Array | None = None,
    pseudo_inputs: jax.Array | None = None,
) -> TrainState:
    model = settings.evaluation.model

    def create(seed: jax.Array | np.ndarray) -> TrainState:
        root_key = make_root_key(seed)
        params = init_params(model, root_key)
        if settings.initialization == "tensorflow":
            params = tensorflow_params(params, stream_key(root_key, Stream.PARAMETERS))
        if mean_image is not None:
            params = with_data_bias(model, params, mean_image)
        if pseudo_inputs is not None:
            params = with_pseudo_inputs(params, pseudo_inputs)
        zero, average = jnp.zeros((), jnp.int32), None
        if settings.ema_decay > 0.0:
            average = MovingAverage(zero, jax.tree.map(jnp.copy, params))
        return TrainState(zero, params, average, settings.optimizer.init(params), root_key)

    # One after another, not by vmap: batched QR decompositions, which make the LSTM's orthogonal
    # kernels, can wait for each other forever on a CPU of two cores.
    return create(seeds) if settings.evaluation.num_replicas == 1 else jax.lax.map(create, seeds)


def _seeds(settings: TrainSettings, seed: int) -> np.ndarray:
    seeds = np.arange(seed, seed + settings.evaluation.num_replicas, dtype=np.uint32)
    return seeds if len(seeds) > 1 else seeds[0]


def initial_state(
    settings: TrainSettings,
    seed: int,
    mean_image: np.ndarray | None = None,
    pseudo_inputs: np.ndarray | None = None,
) -> TrainState:
    """Creates the state before the first step; replica i has the seed `seed + i`.

    The decoder begins at `mean_image`, `<float>[height, width, channels]`. `pseudo_inputs`,
    `<float>[components, height, width, channels]`, belong to a VampPrior that does not learn them.
    Both are intensities in [0, 1].
    """
    # On one device, then sent to the others: see `_initial_state` for what could hang.
    given = devices.to_device((_seeds(settings, seed), mean_image, pseudo_inputs))
    state = _initial_state(settings.on_mesh(None), *given)
    return settings.evaluation.place(state)


def abstract_state(settings: TrainSettings) -> TrainState:
    """Returns the shapes and types of a state."""
    # The arguments are those of `initial_state` without data: traced once for both.
    settings = settings.on_mesh(None)
    return jax.eval_shape(lambda: _initial_state(settings, _seeds(settings, 0), None, None))


@functools.partial(jax.jit, static_argnames=("settings", "num_images"))
def epoch_order(
    settings: TrainSettings, root_key: jax.Array, epoch: int, num_images: int
) -> jax.Array:
    """Draws the order in which an epoch sees the training images: `<int32>[..., num_images]`."""

    def order(root_key: jax.Array, epoch: jax.Array) -> jax.Array:
        return jax.random.permutation(stream_key(root_key, Stream.DATA_ORDER, epoch), num_images)

    return settings.evaluation.for_each_replica(order, in_axes=(0, None))(root_key, epoch)


def gradient_norm(
    gradients: Params, is_divided: Callable[[Any], bool] = lambda path: False
) -> jax.Array:
    """Computes the Euclidean norm of all gradients together, `<float>[]`.

    `is_divided` is whether the devices have different rows of the array at a path.
    """

    def sum_of_squares(leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(-1, leaf.shape[-1] if leaf.ndim else 1)
        # A matrix product adds faster on CPU than a sum. The barrier: with squares of their own the
        # updates stay fused, and round, as without a norm.
        squares = rows * jax.lax.optimization_barrier(rows)
        ones = jnp.ones(rows.shape[-1], rows.dtype)
        return jnp.matmul(squares, ones, precision=jax.lax.Precision.HIGHEST).sum()

    squares = batch_axis.total(jax.tree.map(sum_of_squares, gradients), is_divided)
    return jnp.sqrt(sum(jax.tree.leaves(squares)))


def _objective_loss(
    settings: TrainSettings, params: Params, batch: Batch, root_key: jax.Array, step: jax.Array
) -> tuple[jax.Array, tuple[Terms, StepNumbers]]:
    """Computes the loss of the run's objective, with the step's noise; nats per image."""
    sample_key, dropout_key, binarization_key = (
        stream_key(root_key, stream, step)
        for stream in (Stream.POSTERIOR, Stream.DROPOUT, Stream.BINARIZATION)
    )
    batch = batch.to_intensities()
    if settings.binarize:
        batch = batch.binarize(binarization_key)
    objective, model = settings.evaluation.objective, settings.evaluation.model
    return training_loss(objective, model, params, batch, sample_key, dropout_key, step)


def _train_step(
    settings: TrainSettings, state: TrainState, batch: Any
) -> tuple[TrainState, StepMetrics]:
    """Takes one replica's step; the loss is NaN if it or the gradient's norm is not finite."""
    loss, is_divided = settings.loss or _objective_loss, settings.evaluation.is_divided

    def loss_of_part(params: Params) -> tuple[jax.Array, tuple[Terms, StepNumbers]]:
        mean, measured = loss(settings, params, batch, state.root_key, state.step)
        return batch_axis.part_of_mean(mean), measured

    gradients, (terms, numbers) = jax.grad(loss_of_part, has_aux=True)(state.params)
    # The gradient of divided rows is of all images already.
    gradients = batch_axis.total(gradients, lambda path: not is_divided(path))
    numbers = batch_axis.mean(numbers)
    sums = batch_axis.total(jax.tree.map(jnp.sum, terms))
    with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
        updates, opt_state = settings.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average and state.average.update(params, settings.ema_decay)
    norm = gradient_norm(gradients, is_divided)
    finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(norm)
    if settings.skip_nonfinite:
        params, average, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, average, opt_state),
            (state.params, state.average, state.opt_state),
        )
    numbers |= {"gradient_norm": norm, "learning_rate": settings.learning_rate_at(state.step)}
    sums |= {"loss": jnp.where(finite, sums["loss"], jnp.nan)}
    state = dataclasses.replace(
        state, step=state.step + 1, params=params, average=average, opt_state=opt_state
    )
    return state, StepMetrics(sums, numbers)


def _batch_of(batch_size: int, index: jax.Array, data: Any, order: jax.Array | None) -> Any:
    """Takes this device's part of a batch, out of all images or out of a block of steps."""
    if order is not None:
        rows = jax.lax.dynamic_slice_in_dim(order, index * batch_size, batch_size)
        return data[batch_axis.own_rows(rows)]
    return jax.tree.map(
        lambda block: jax.lax.dynamic_index_in_dim(block, index % len(block), keepdims=False), data
    )


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="state")
def train_chunk(
    settings: TrainSettings,
    state: TrainState,
    data: Any,
    order: jax.Array | None,
    first_batch: int,
    num_steps: int,
) -> tuple[TrainState, StepMetrics]:
    """Takes a chunk of an epoch's steps as one loop on the device.

    One program, whatever the number of steps: the length of chunks never decides a result.

    Args:
      settings: of the epoch.
      state: consumed; its buffers hold the new state.
      data: all training images, a `Batch` or another struct whose rows can be indexed; without
        an order, those of a block of consecutive steps, `[..., steps, batch, ...]`.
      order: `<int32>[..., num_images]`, the epoch's order; or None.
      first_batch: the epoch's batch to begin with, from 0.
      num_steps: how many steps to take, at most `MAX_CHUNK_STEPS`.

    Returns:
      The new state, and the metrics of each step, `<float>[MAX_CHUNK_STEPS, ...]`; the first
      `num_steps` are filled. The loss of a step is NaN if it or its gradient is not finite.
    """

    def train(
        state: TrainState,
        data: Any,
        order: jax.Array | None,
        first_batch: jax.Array,
        num_steps: jax.Array,
    ) -> tuple[TrainState, StepMetrics]:
        # Traced once, though its shapes are asked for too; inlined, so that it is no call.
        @functools.partial(jax.jit, inline=True)
        def take_step(state: TrainState, batch: jax.Array) -> tuple[TrainState, StepMetrics]:
            return _train_step(settings, state, _batch_of(settings.batch_size, batch, data, order))

        def body(index: jax.Array, carry: tuple[TrainState, StepMetrics]):
            state, filled = carry
            state, metrics = take_step(state, first_batch + index)
            return state, jax.tree.map(lambda all, one: all.at[index].set(one), filled, metrics)

        _, shapes = jax.eval_shape(take_step, state, first_batch)
        empty = jax.tree.map(lambda one: jnp.zeros((MAX_CHUNK_STEPS,), one.dtype), shapes)
        return jax.lax.fori_loop(0, num_steps, body, (state, empty))

    # A block of steps has its own images for each replica, and a device has only its part.
    data_axes = (0, 1) if order is None else (None, None)
    train_all = settings.evaluation.for_each_replica(
        train,
        in_axes=(0, data_axes[0], 0, None, None),
        out_axes=(0, 1),
        in_batch=(None, data_axes[1], None, None, None),
        returns_first=True,
    )
    return train_all(state, data, order, first_batch, num_steps)
