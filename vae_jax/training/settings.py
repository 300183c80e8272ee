"""What is fixed when a program is compiled: what evaluation needs, and what training adds."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import optax

from vae_jax.datasets import DataSpec
from vae_jax.model.objective import NEGATIVE_ELBO, Objective
from vae_jax.model.vae import VAE, create_vae
from vae_jax.runtime.devices import DATA_AXIS, REPLICA_AXIS
from vae_jax.training.optimizer import create_optimizer, learning_rate_schedule


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What computing losses needs. Equal settings share their compiled programs.

    Attributes:
      model: the autoencoder.
      objective: what is minimized in the epoch at hand: its KL weight and number of samples are
        those of the validation loss too.
      num_replicas: how many seeds are computed side by side.
      mesh: the devices that compute, from `devices.make_mesh`; None for the one where the
        arrays lie.
    """

    model: VAE
    objective: Objective = NEGATIVE_ELBO
    num_replicas: int = 1
    mesh: jax.sharding.Mesh | None = None

    @property
    def splits_batches(self) -> bool:
        """Whether each device has some images of each batch."""
        return self.mesh is not None and self.mesh.shape[DATA_AXIS] > 1

    @property
    def splits_replicas(self) -> bool:
        """Whether each device has some of the replicas."""
        return self.mesh is not None and self.mesh.shape[REPLICA_AXIS] > 1

    def in_epoch(self, epoch: int) -> "EvaluationSettings":
        """Returns those of an epoch, from 1: the objective can change in the course of a run."""
        return dataclasses.replace(self, objective=self.objective.of_epoch(epoch))


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What a training step needs.

    Attributes:
      evaluation: the model, the objective, the replicas and the devices.
      optimizer: the Optax transformation of the gradients.
      learning_rate: of its steps: a number, or a function of the number of steps taken before.
      batch_size: images in a step.
      initialization: where the parameters begin, as for `create_train_state`.
      ema_decay: of the parameters' moving average, which is then what is evaluated; 0 for none.
      binarize: whether each pixel is drawn anew, 1 with the probability of its intensity.
      skip_nonfinite: whether a step whose loss or gradient is not finite leaves the parameters
        and the optimizer's state as they are.
    """

    evaluation: EvaluationSettings
    optimizer: optax.GradientTransformation
    learning_rate: optax.ScalarOrSchedule
    batch_size: int
    initialization: str = "flax"
    ema_decay: float = 0.0
    binarize: bool = False
    skip_nonfinite: bool = False

    def learning_rate_at(self, step: jax.Array) -> jax.Array:
        """Returns the learning rate of a step, `<float>[]`, from the number of steps before it."""
        rate = self.learning_rate
        return jnp.float32(rate(step) if callable(rate) else rate)

    def in_epoch(self, epoch: int) -> "TrainSettings":
        """Returns those of an epoch, from 1: the objective can change in the course of a run."""
        return dataclasses.replace(self, evaluation=self.evaluation.in_epoch(epoch))


def evaluation_settings(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    mesh: jax.sharding.Mesh | None = None,
) -> EvaluationSettings:
    """Builds what evaluating the model of a configuration needs.

    Args:
      config: a valid configuration.
      spec: of the data.
      mesh: the devices that compute; None for the one where the arrays lie.
    """
    return EvaluationSettings(
        model=create_vae(
            config.latent_size,
            config.encoder,
            config.decoder,
            spec.image_shape,
            config.likelihood.kind,
            config.prior.to_dict(),
            num_classes=len(spec.class_names) if config.condition.kind == "label" else 0,
        ),
        objective=Objective(**config.loss),
        num_replicas=config.train.num_replicas,
        mesh=mesh,
    )


def train_settings(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    steps_per_epoch: int,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainSettings:
    """Builds what training the model of a configuration needs.

    Args:
      config: a valid configuration.
      spec: of the data.
      steps_per_epoch: for the learning rate's schedule.
      mesh: the devices that compute; None for the one where the arrays lie.
    """
    train = config.train
    rate = learning_rate_schedule(
        train.learning_rate_schedule, train.learning_rate, train.num_epochs * steps_per_epoch
    )
    return TrainSettings(
        evaluation=evaluation_settings(config, spec, mesh),
        optimizer=create_optimizer(rate, train.max_gradient_norm, train.weight_decay),
        learning_rate=rate,
        batch_size=train.batch_size,
        initialization=config.initialization,
        ema_decay=train.ema_decay,
        binarize=config.data.binarization == "dynamic",
        skip_nonfinite=train.skip_nonfinite,
    )
