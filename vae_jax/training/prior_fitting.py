"""A prior fitted to the posteriors of a trained model, whose encoder and decoder do not change.

The loss is -log p(z) of posterior samples: all of the negative ELBO that depends on the prior.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from tqdm import tqdm

from vae_jax.datasets import Dataset
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import StandardNormal
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch, StepNumbers, Terms
from vae_jax.model.vae import VAE, Params, apply
from vae_jax.runtime import devices
from vae_jax.runtime.batching import map_batches
from vae_jax.training.batches import to_batch
from vae_jax.training.settings import EvaluationSettings, TrainSettings
from vae_jax.training.train_state import TrainState
from vae_jax.training.trainer import train_one_epoch

_NUM_EPOCHS = 40
_BATCH_SIZE = 100
_ENCODE_BATCH_SIZE = 500
_LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class PriorFit:
    """The losses of fitting a prior, -log p(z) of posterior samples, in nats per image."""

    epoch: int  # that with the lowest validation loss; 0 if none is below the initial one
    train: list[float]  # of each epoch
    validation: list[float]  # before the first epoch and after each
    standard_normal: float  # that of the standard normal, of the same validation samples


@struct.dataclass
class _Encoded:
    """Training data of a prior, and the parameters of the model that do not change."""

    batch: Batch  # posteriors in place of the images, and labels
    params: Params  # except the prior's

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, rows: jax.Array) -> "_Encoded":
        return _Encoded(self.batch[rows], self.params)


@functools.partial(jax.jit, static_argnames=("model", "is_binarized"))
def _encode_batch(
    model: VAE, params: Params, key: jax.Array, is_binarized: bool, batch: Batch, indices: jax.Array
) -> Posterior:
    """Encodes images; if binarized, key and index of an image decide its pixels."""
    batch = batch.to_intensities()
    if is_binarized:
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(indices)
        batch = jax.vmap(lambda key, image: image.binarize(key))(keys, batch)
    return apply(model, params, batch, method="posterior")


def _encode(
    model: VAE, params: Params, data: Batch, key: jax.Array, is_binarized: bool = False
) -> _Encoded:
    encode = functools.partial(_encode_batch, model, params, key, is_binarized)
    indices = np.arange(len(data), dtype=np.int32)
    posterior = map_batches(encode, _ENCODE_BATCH_SIZE, data, indices)
    return devices.to_device(_Encoded(Batch(posterior, data.labels), params))


def _loss(
    settings: TrainSettings, prior: Params, data: _Encoded, key: jax.Array, step: jax.Array
) -> tuple[jax.Array, tuple[Terms, StepNumbers]]:
    """Computes -log p(z) of one sample of each posterior."""
    latents = data.batch.images.sample(stream_key(key, Stream.POSTERIOR, step)).latents
    loss = -apply(
        settings.evaluation.model,
        {**data.params, "prior": prior},
        method=lambda model: model.prior(data.batch).log_density(latents),
    )
    return loss.mean(), ({"loss": loss}, {})


def fit_prior(
    model: VAE,
    params: Params,
    prior: Params,
    root_key: jax.Array,
    dataset: Dataset,
    is_binarized: bool,
) -> tuple[Params, PriorFit]:
    """Fits a prior's parameters to posterior samples; the validation images choose the epoch.

    Adam with a rate of 0.001 that falls by a cosine, batches of 100 images or of all. If binarized,
    the training images' pixels are drawn anew in each epoch. The model has that prior, which begins
    at the parameters `prior`; `params` are the model's others, which do not change.

    Raises:
      UserError: a loss is not finite.
    """
    key, train_data = stream_key(root_key, Stream.PRIOR_FIT), to_batch(dataset.train)
    batch_size = min(_BATCH_SIZE, len(train_data))
    num_steps = _NUM_EPOCHS * (len(train_data) // batch_size)
    rate = optax.cosine_decay_schedule(_LEARNING_RATE, num_steps)
    settings = TrainSettings(
        EvaluationSettings(model), optax.adam(rate), rate, batch_size, loss=_loss
    )
    mean_loss = jax.jit(lambda *data: _loss(settings, *data, step=jnp.int32(0))[0])
    held_out = _encode(model, params, to_batch(dataset.validation), key)
    latents = held_out.batch.images.sample(stream_key(key, Stream.POSTERIOR)).latents
    standard_normal = -StandardNormal(latents.shape[-1]).log_density(latents).mean()
    opt_state = settings.optimizer.init(prior)
    state = TrainState(jnp.int32(0), prior, average=None, opt_state=opt_state, root_key=key)
    validation = [float(mean_loss(prior, held_out, key))]
    best, train, data = jax.device_get(prior), [], None
    total, quiet = num_steps * batch_size, not sys.stderr.isatty()
    bar = tqdm(None, "fitting", total, unit=" images", unit_scale=True, disable=quiet)
    for epoch in range(1, _NUM_EPOCHS + 1):
        if data is None or is_binarized:
            pixel_key = stream_key(root_key, Stream.PRIOR_FIT_PIXELS, epoch)
            data = _encode(model, params, train_data, pixel_key, is_binarized)
        state, steps = train_one_epoch(settings, state, data, epoch, bar)
        train.append(float(steps.sums["loss"].mean()) / batch_size)
        key = state.root_key  # each step consumes the state
        validation.append(float(mean_loss(state.params, held_out, key)))
        if validation[-1] == min(validation):
            best = jax.device_get(state.params)
    return best, PriorFit(int(np.argmin(validation)), train, validation, float(standard_normal))
