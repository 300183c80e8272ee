"""Every compiled program of the package: the only place that jits.

With more than one replica every array of a train state has a leading axis, one entry for each
seed; where a function's docstring says `[...]`, that axis is there too. On several devices
the arrays lie as `devices.py` says: each device has some of the replicas, or some images of
each batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.model import distributions
from vae_jax.model.importance import WeightSums, add_weights
from vae_jax.model.losses import NegativeElbo
from vae_jax.model.objective import NEGATIVE_ELBO, Objective, evaluation_terms, training_loss
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.vae import VAE
from vae_jax.runtime import devices
from vae_jax.runtime.devices import DATA_AXIS, REPLICA_AXIS
from vae_jax.training.train_state import TrainState, create_train_state

MAX_PIXEL = 255.0


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What is fixed when a training step is compiled.

    Attributes:
      model: the autoencoder.
      optimizer: the Optax transformation of its gradients.
      batch_size: images in a step.
      initialization: where the parameters begin, as for `create_train_state`.
      objective: what training minimises, in the epoch at hand; its KL weight and number of
        samples are evaluation's too.
      binarize: whether each pixel is drawn anew, 1 with probability of its grey value.
      num_replicas: how many seeds are trained side by side.
      skip_nonfinite: whether a step whose loss or gradient is not finite leaves the parameters
        and the optimiser's state as they are.
      mesh: the devices that compute, from `devices.make_mesh`; None for the one where the
        arrays lie.
    """

    model: VAE
    optimizer: optax.GradientTransformation
    batch_size: int
    initialization: str = "flax"
    objective: Objective = NEGATIVE_ELBO
    binarize: bool = False
    num_replicas: int = 1
    skip_nonfinite: bool = False
    mesh: jax.sharding.Mesh | None = None

    def in_epoch(self, epoch: int) -> "StepSettings":
        """Those of an epoch, numbered from 1: the objective can change in the course of a run."""
        return dataclasses.replace(self, objective=self.objective.of_epoch(epoch))

    @property
    def splits_batches(self) -> bool:
        """Whether each device has some images of each batch."""
        return self.mesh is not None and self.mesh.shape[DATA_AXIS] > 1

    @property
    def splits_replicas(self) -> bool:
        """Whether each device has some of the replicas."""
        return self.mesh is not None and self.mesh.shape[REPLICA_AXIS] > 1


def _for_each_replica(
    settings: StepSettings, function: Callable, in_axes: Sequence[int | None], out_axes: Any = 0
) -> Callable:
    """The function for all replicas at once; itself where there is one.

    Args:
      settings: how many replicas there are, and on which devices.
      function: from one replica's arrays to a tree of arrays.
      in_axes: for each argument the axis of its replicas, 0, or None if all share it.
      out_axes: the axis of the replicas in what is returned, or one for each part of it.
    """
    if settings.num_replicas == 1:
        return function
    mapped = jax.vmap(function, in_axes=tuple(in_axes), out_axes=out_axes)
    if not settings.splits_replicas:
        return mapped
    # Not left to the compiler: no device needs to know of another's replicas.
    return jax.shard_map(
        mapped,
        mesh=settings.mesh,
        in_specs=tuple(P() if axis is None else P(REPLICA_AXIS) for axis in in_axes),
        out_specs=jax.tree.map(lambda axis: P(*[None] * axis, REPLICA_AXIS), out_axes),
        check_vma=False,
    )


def _split_batch(settings: StepSettings, images: jax.Array) -> jax.Array:
    """Gives each device its images of a batch."""
    if not settings.splits_batches:
        return images
    return jax.lax.with_sharding_constraint(images, NamedSharding(settings.mesh, P(DATA_AXIS)))


def _on_every_device(settings: StepSettings, tree: Any) -> Any:
    """Lets no device have but a part of arrays that all of them need."""
    if not settings.splits_batches:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(settings.mesh, P()))


@functools.partial(jax.jit, static_argnames="settings")
def _initial_state(
    settings: StepSettings, seeds: jax.Array, mean_image: jax.Array | None = None
) -> TrainState:
    create = functools.partial(
        create_train_state,
        settings.model,
        settings.optimizer,
        initialization=settings.initialization,
        mean_image=mean_image,
    )
    # One after another, not by vmap: QR decompositions of batches, of which the LSTM's
    # orthogonal kernels are made, can wait for each other for ever on a CPU of two cores.
    return create(seeds) if settings.num_replicas == 1 else jax.lax.map(create, seeds)


def _seeds(settings: StepSettings, seed: int) -> np.ndarray:
    seeds = np.arange(seed, seed + settings.num_replicas, dtype=np.uint32)
    return seeds if settings.num_replicas > 1 else seeds[0]


def initial_state(
    settings: StepSettings, seed: int, mean_image: np.ndarray | None = None
) -> TrainState:
    """The state before the first step; replica i has the seed `seed + i`.

    Args:
      settings: model, optimiser and initialisation.
      seed: of the first replica.
      mean_image: `<float>[28, 28]`, pixels in [0, 1], which the decoder is to begin at; without
        it the initialisation decides.
    """
    # On one device, then sent to the others: see `_initial_state` for what could hang.
    state = _initial_state(settings, _seeds(settings, seed), mean_image)
    return state if settings.mesh is None else devices.place_state(state, settings.mesh)


def abstract_state(settings: StepSettings) -> TrainState:
    """The shapes and types of a state: what a checkpoint is restored into."""
    return jax.eval_shape(lambda: _initial_state(settings, _seeds(settings, 0)))


def replica(state: TrainState, index: int) -> TrainState:
    """One replica's state out of those of several."""
    return jax.tree.map(lambda leaf: leaf[index], state)


@jax.jit
def checksum(state: TrainState) -> jax.Array:
    """A number that tells whether a state is, bit for bit, what it was: `<uint32>[]`.

    The sum, modulo 2**32, of all words times odd weights that differ. That a single word has
    changed always shows; that many have goes unseen once in 2**32 times.
    """
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32).reshape(-1)
        weights = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
        total = total * 3 + jnp.sum(words * weights, dtype=jnp.uint32)
    return total


@functools.partial(jax.jit, static_argnames=("settings", "num_images"))
def epoch_order(
    settings: StepSettings, root_key: jax.Array, epoch: int, num_images: int
) -> jax.Array:
    """The order in which an epoch sees the training images: `<int32>[..., num_images]`."""

    def order(root_key: jax.Array, epoch: jax.Array) -> jax.Array:
        return jax.random.permutation(stream_key(root_key, Stream.DATA_ORDER, epoch), num_images)

    return _for_each_replica(settings, order, in_axes=(0, None))(root_key, epoch)


def _to_pixels(images: jax.Array) -> jax.Array:
    """Grey values `<uint8>` to `<float32>` in [0, 1]."""
    return images.astype(jnp.float32) / MAX_PIXEL


def _all_finite(loss: jax.Array, gradients: Any) -> jax.Array:
    """Whether the loss and every gradient is finite: `<bool>[]`."""
    # A product with zeros is zero, or NaN where there was an infinity or NaN. As a matrix
    # product it takes 2 % of a step's time on CPU, the usual reductions 6 to 10.
    rows = (leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(gradients))
    zeros = sum((row @ jnp.zeros(row.shape[-1], row.dtype)).sum() for row in rows)
    return jnp.isfinite(loss) & (zeros == 0)


def _train_step(
    settings: StepSettings, state: TrainState, images: jax.Array
) -> tuple[TrainState, NegativeElbo]:
    """One replica's step; the loss of one that is not finite, gradient included, is NaN."""
    sample_key, dropout_key, binarization_key = (
        stream_key(state.root_key, stream, state.step)
        for stream in (Stream.POSTERIOR, Stream.DROPOUT, Stream.BINARIZATION)
    )
    pixels = _to_pixels(images)
    if settings.binarize:
        pixels = jax.random.bernoulli(binarization_key, pixels).astype(jnp.float32)

    def mean_loss(params: Any) -> tuple[jax.Array, NegativeElbo]:
        return training_loss(
            settings.objective,
            settings.model,
            params,
            pixels,
            sample_key,
            dropout_key,
            state.step,
        )

    gradients, terms = jax.grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = settings.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    sums = jax.tree.map(jnp.sum, terms)
    finite = _all_finite(sums.loss, gradients)
    if settings.skip_nonfinite:
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, sums.replace(loss=jnp.where(finite, sums.loss, jnp.nan))


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
      The loss is NaN if any of its gradients is not finite.
    """
    step = functools.partial(_train_step, settings)
    return _for_each_replica(settings, step, in_axes=(0, 0))(state, images)


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
      `<float>[num_steps, ...]`. The loss of a step is NaN if any of its gradients is not finite.
    """

    def train(
        state: TrainState, images: jax.Array, order: jax.Array, first_batch: jax.Array
    ) -> tuple[TrainState, NegativeElbo]:
        def body(state: TrainState, batch: jax.Array) -> tuple[TrainState, NegativeElbo]:
            start = batch * settings.batch_size
            indices = jax.lax.dynamic_slice_in_dim(order, start, settings.batch_size)
            state, sums = _train_step(settings, state, _split_batch(settings, images[indices]))
            return _on_every_device(settings, (state, sums))

        return jax.lax.scan(body, state, first_batch + jnp.arange(num_steps))

    train_all = _for_each_replica(settings, train, in_axes=(0, None, 0, None), out_axes=(0, 1))
    return train_all(state, images, order, first_batch)


@functools.partial(jax.jit, static_argnames="settings")
def evaluate_batch(
    settings: StepSettings,
    params: Any,
    root_key: jax.Array,
    images: jax.Array,
    indices: jax.Array,
) -> NegativeElbo:
    """Loss and terms of each image, dropout off, with the objective's number of latent samples.

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

    def evaluate(
        params: Any, root_key: jax.Array, images: jax.Array, indices: jax.Array
    ) -> NegativeElbo:
        pixels = _to_pixels(_split_batch(settings, images))
        keys = jax.vmap(lambda index: stream_key(root_key, Stream.EVALUATION, index))(indices)
        terms = evaluation_terms(settings.objective, settings.model, params, pixels, keys)
        return _on_every_device(settings, terms)

    evaluate_all = _for_each_replica(settings, evaluate, in_axes=(0, 0, None, None), out_axes=1)
    return evaluate_all(params, root_key, images, indices)


@functools.partial(jax.jit, static_argnames=("model", "num_samples"))
def add_importance_samples(
    model: VAE,
    params: Any,
    root_key: jax.Array,
    images: jax.Array,
    mean: jax.Array,
    log_var: jax.Array,
    indices: jax.Array,
    sums: WeightSums,
    num_samples: int,
) -> WeightSums:
    """Draws more latent samples for each image and adds their importance weights.

    A sample's noise comes from its image's index in the split and its own number, so that it
    does not matter how many are drawn at once.

    Args:
      model: the autoencoder.
      params: its parameters.
      root_key: the run's root key.
      images: `<uint8>[batch, 28, 28]`.
      mean: `<float>[batch, latent]`, of q(z | x).
      log_var: `<float>[batch, latent]`, of q(z | x).
      indices: `<int>[batch]`, each image's place in its split.
      sums: of the samples drawn before.
      num_samples: how many to draw for each image.

    Returns:
      The sums with these samples among them.
    """
    pixels = _to_pixels(images)

    def draw(index: jax.Array, number: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        key = jax.random.fold_in(stream_key(root_key, Stream.IMPORTANCE, index), number)
        return distributions.sample_gaussian(key, mean, log_var)

    def log_weights_of(number: jax.Array) -> jax.Array:
        latents = jax.vmap(draw, in_axes=(0, None, 0, 0))(indices, number, mean, log_var)
        log_weights, _ = model.apply(
            {"params": params}, pixels, mean, log_var, latents[None], method="log_weights"
        )
        return log_weights[0]

    # One sample of every image at a time: memory does not grow with their number.
    log_weights = jax.lax.map(log_weights_of, sums.count + jnp.arange(num_samples))
    return add_weights(sums, log_weights)


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
