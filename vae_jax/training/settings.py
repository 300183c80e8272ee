"""Builds what the compiled steps need from a configuration."""

import jax
import ml_collections

from vae_jax.model.objective import Objective
from vae_jax.model.vae import create_vae
from vae_jax.training import steps
from vae_jax.training.optimizer import create_optimizer


def step_settings(
    config: ml_collections.ConfigDict,
    mesh: jax.sharding.Mesh | None = None,
    steps_per_epoch: int = 1,
) -> steps.StepSettings:
    """Builds the model and optimiser the configuration describes.

    Args:
      config: a valid configuration.
      mesh: the devices that compute; None for the one where the arrays lie.
      steps_per_epoch: for the learning rate's schedule; what does not train needs none.
    """
    optimizer = create_optimizer(
        config.train.learning_rate,
        config.train.learning_rate_schedule,
        config.train.num_epochs * steps_per_epoch,
        config.train.max_gradient_norm,
        config.train.weight_decay,
        config.train.ema_decay,
    )
    return steps.StepSettings(
        model=create_vae(config.latent_size, config.encoder, config.decoder),
        optimizer=optimizer,
        batch_size=config.train.batch_size,
        initialization=config.initialization,
        objective=Objective(**config.loss),
        binarize=config.data.binarization == "dynamic",
        num_replicas=config.train.num_replicas,
        skip_nonfinite=config.train.skip_nonfinite,
        mesh=mesh,
    )
