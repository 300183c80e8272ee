"""What is fixed when a program is compiled: for evaluation, and for training."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import PartitionSpec as P

from vae_jax.datasets import DataSpec
from vae_jax.model.objective import Objective
from vae_jax.model.vae import VAE, create_vae
from vae_jax.runtime import devices
from vae_jax.runtime.devices import DATA_AXIS, REPLICA_AXIS
from vae_jax.training.optimizer import create_optimizer, learning_rate_schedule


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """The settings of computing losses. Equal settings share their compiled programs.

    With several replicas, every array of a train state has a leading axis, one entry for each
    seed. On several devices, each has some of the replicas or some images of each batch.
    """

    model: VAE
    objective: Objective = dataclasses.field(default_factory=Objective)  # of this epoch
    num_replicas: int = 1  # seeds computed side by side
    # The devices, from `division.make_mesh`; None for the one where the arrays lie.
    mesh: jax.sharding.Mesh | None = None
    divisible_shape: tuple[int, int] = (0, 0)  # the decoder's; (0, 0) if none may be divided

    def in_epoch(self, epoch: int) -> "EvaluationSettings":
        """Returns the settings of an epoch, counted from 1: the objective can change."""
        return dataclasses.replace(self, objective=self.objective.of_epoch(epoch))

    def for_each_replica(
        self,
        function: Callable,
        in_axes: Sequence[int | None],
        out_axes: Any = 0,
        in_batch: Sequence[int | None] | None = None,
        out_batch: int | None = None,
        returns_first: bool = False,
    ) -> Callable:
        """Maps a function of one replica over all of them, as `jax.vmap`; to be used in `jax.jit`.

        Each device computes some replicas, or some images of each batch: see `batch_axis`. The
        replicas' axis of an argument is 0, or None if all share it; `in_batch` and `out_batch` are
        the images' axes of arguments and results before that axis is added, None where every
        device has the same. `returns_first` is whether the first of several results is divided as
        the first argument is.
        """
        mapped = function
        if self.num_replicas > 1:
            mapped = jax.vmap(function, in_axes=tuple(in_axes), out_axes=out_axes)
        if self.mesh is None:
            return mapped

        # Not left to the compiler, which divides loops over pieces of a batch badly.
        def divided(*arguments: Any) -> Any:
            in_specs = [*map(self._specs, arguments, in_axes, in_batch or [None] * len(in_axes))]
            out_specs = jax.tree.map(lambda axis: self._spec(axis, out_batch), out_axes)
            if returns_first:
                out_specs = (in_specs[0], *out_specs[1:])
            return jax.shard_map(
                mapped,
                mesh=self.mesh,
                in_specs=tuple(in_specs),
                out_specs=out_specs,
                check_vma=False,
            )(*arguments)

        return divided

    def on_mesh(self, mesh: jax.sharding.Mesh | None) -> "EvaluationSettings":
        """Returns the settings of the same computation on other devices."""
        return dataclasses.replace(self, mesh=mesh if mesh and mesh.size > 1 else None)

    def place(self, state: Any) -> Any:
        """Places a train state, the same in every process, on the devices."""
        return devices.place(state, self.mesh, self._specs(state, 0, None))

    def is_divided(self, path: Any) -> bool:
        """Whether each device has some rows of a parameter, or of its moments or gradient."""
        if self.mesh is None or not self.divisible_shape[0]:
            return False
        parts, platform = self.mesh.shape[DATA_AXIS], self.mesh.devices.flat[0].platform
        # On other platforms not measured.
        if parts == 1 or self.divisible_shape[0] % parts or platform != "cpu":
            return False
        names = [getattr(key, "key", None) for key in path[-2:]]
        return names == [self.model.decoder.output_layer, "kernel"]

    def _specs(self, tree: Any, replica_axis: int | None, batch_axis: int | None) -> Any:
        """Returns how each array of a tree is divided."""
        spec = self._spec(replica_axis, batch_axis)
        return jax.tree_util.tree_map_with_path(
            lambda path, _: P(*spec, DATA_AXIS) if self.is_divided(path) else spec, tree
        )

    def _spec(self, replica_axis: int | None, batch_axis: int | None) -> P:
        names = [] if batch_axis is None else [*[None] * batch_axis, DATA_AXIS]
        if self.num_replicas > 1 and replica_axis is not None:
            names += [None] * (replica_axis - len(names))
            names.insert(replica_axis, REPLICA_AXIS)
        return P(*names)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The settings of a training step."""

    evaluation: EvaluationSettings
    optimizer: optax.GradientTransformation
    learning_rate: optax.ScalarOrSchedule  # a schedule takes the number of steps taken before
    batch_size: int
    initialization: str = "flax"  # its defaults, or "tensorflow", version 1's
    ema_decay: float = 0.0  # of the parameters' moving average, which is evaluated; 0 for none
    binarize: bool = False  # whether each pixel is drawn anew
    skip_nonfinite: bool = False  # whether a step that is not finite changes no parameter
    # Of `(settings, params, batch, root_key, step)`, returns what `objective.training_loss` does;
    # None for that. On several devices the batch is a device's images: see `model.batch_axis`.
    loss: Callable[..., Any] | None = None

    def learning_rate_at(self, step: jax.Array) -> jax.Array:
        """Returns the learning rate of a step, `<float>[]`, from the number of steps before it."""
        rate = self.learning_rate
        return jnp.float32(rate(step) if callable(rate) else rate)

    def on_mesh(self, mesh: jax.sharding.Mesh | None) -> "TrainSettings":
        """Returns the settings of the same steps on other devices."""
        return dataclasses.replace(self, evaluation=self.evaluation.on_mesh(mesh))


def evaluation_settings(
    config: ml_collections.ConfigDict, spec: DataSpec, mesh: jax.sharding.Mesh | None = None
) -> EvaluationSettings:
    """Builds the settings of evaluating the model of a valid configuration."""
    model = create_vae(
        config.latent_size,
        config.encoder,
        config.decoder,
        spec.image_shape,
        config.likelihood.kind,
        config.prior.to_dict(),
        num_classes=len(spec.class_names) if config.condition.kind == "label" else 0,
    )
    # Optax clips by the norm of a device's own gradients; decoders of users may lack the shape.
    shape = getattr(model.decoder, "divisible_shape", (0, 0))
    settings = EvaluationSettings(
        model=model,
        objective=Objective(**config.loss),
        num_replicas=config.train.num_replicas,
        divisible_shape=shape if not config.train.max_gradient_norm else (0, 0),
    )
    return settings.on_mesh(mesh)


def train_settings(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    steps_per_epoch: int,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainSettings:
    """Builds the settings of training the model of a valid configuration."""
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
