"""What is done with a trained model: whole-split metrics, figures, samples, interpolations."""

import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from vae_jax import (
    datasets,
    devices,
    figures,
    generate,
    latents,
    likelihood,
    metrics,
    run_directory,
    steps,
)
from vae_jax.checkpoints import Checkpoints
from vae_jax.errors import UserError
from vae_jax.objectives import Objective
from vae_jax.optimizer import create_optimizer, evaluation_params
from vae_jax.train_state import TrainState, num_parameters
from vae_jax.vae import VAE, create_vae

_BATCH_SIZE = 500
_GRID = (10, 10)
_NUM_RECONSTRUCTION_ROWS = 3
_NUM_INTERPOLATION_STEPS = 10


def load_dataset(config: ml_collections.ConfigDict) -> datasets.Dataset:
    """Loads the data the configuration names."""
    return datasets.load(**config.data)


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


def evaluate_split(
    settings: steps.StepSettings, state: TrainState, images: np.ndarray
) -> list[dict[str, float]]:
    """Each replica's mean loss and terms over every image, each counted once.

    Args:
      settings: model and loss.
      state: parameters, or an optimiser's state with their average, and root key.
      images: `<uint8>[n, 28, 28]`.

    Returns:
      The terms of each replica, nats per image.
    """
    # Every device has as many images of a batch as the others.
    num_devices = settings.mesh.size if settings.splits_batches else 1
    batch_size = -(-_BATCH_SIZE // num_devices) * num_devices
    params = evaluation_params(state.params, state.opt_state)
    pieces = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        # A short last batch is filled up, so that one program serves all, and cut off again.
        padding = batch_size - len(batch)
        terms = steps.evaluate_batch(
            settings,
            params,
            state.root_key,
            np.pad(batch, ((0, padding), (0, 0), (0, 0))),
            np.arange(start, start + batch_size),
        )
        pieces.append(devices.to_host(terms)[: len(batch)])
    return metrics.mean_terms(pieces, len(images))


@dataclasses.dataclass(frozen=True)
class Replica:
    """One seed's model, ready to be looked at.

    Attributes:
      folder: where its metrics, figures and summary are.
      seed: its seed.
      epoch: the run's best epoch.
      settings: model, optimiser and loss, of this replica alone.
      state: after `epoch`, its parameters those to evaluate.
    """

    folder: Path
    seed: int
    epoch: int
    settings: steps.StepSettings
    state: TrainState

    @property
    def model(self) -> VAE:
        """The autoencoder."""
        return self.settings.model

    @property
    def figures(self) -> Path:
        """The folder figures go to."""
        return self.folder / "figures"


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The best epoch of a run.

    Attributes:
      workdir: the run directory.
      epoch: the epoch with the lowest validation loss, averaged over the replicas.
      rows: for each epoch that a checkpoint holds, each replica's row of metrics.
      replicas: one for each seed.
    """

    workdir: Path
    epoch: int
    rows: Sequence[Sequence[dict[str, float]]]
    replicas: list[Replica]


def open_best(config: ml_collections.ConfigDict, workdir: Path) -> TrainedRun:
    """Restores the best checkpoint of the run in `workdir`.

    Raises:
      UserError: there is no run, it is of another configuration, or it has no checkpoint.
    """
    run_directory.check_same_config(workdir, config.to_dict())
    settings = step_settings(config)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        progress = checkpoints.latest_progress()
        if progress is None or progress.best is None:
            raise UserError(f"--workdir={workdir}: holds no finished epoch yet; train first")
        step, epoch = (int(progress.best[name]) for name in ("step", "epoch"))
        like = steps.abstract_state(settings)
        state, _ = checkpoints.restore(step, like, devices.single_device())
    state = state.replace(params=evaluation_params(state.params, state.opt_state))
    folders = run_directory.replica_folders(workdir, config.seed, settings.num_replicas)
    states = [state]
    if settings.num_replicas > 1:
        states = [steps.replica(state, index) for index in range(settings.num_replicas)]
    alone = dataclasses.replace(settings.in_epoch(epoch), num_replicas=1)
    replicas = [
        Replica(folder, config.seed + index, epoch, alone, state)
        for index, (folder, state) in enumerate(zip(folders, states, strict=True))
    ]
    return TrainedRun(workdir, epoch, progress.rows, replicas)


def save_samples(replica: Replica) -> np.ndarray:
    """Draws the grid of samples; returns its images, `<float32>[100, 28, 28]`."""
    images = generate.sample_prior(
        replica.model, replica.state.params, replica.state.root_key, _GRID[0] * _GRID[1]
    )
    grid = images.reshape(*_GRID, *images.shape[1:])
    figures.save_image_grid(
        replica.figures / "samples.png", grid, f"Samples from random latents, epoch {replica.epoch}"
    )
    return images


def save_interpolation(replica: Replica, test: datasets.Split) -> None:
    """Draws rows from one test digit to another of a different class."""
    first, last = (test.images[rows] for rows in generate.pairs_of_different_classes(test.labels))
    between = generate.interpolate(
        replica.model, replica.state.params, first, last, _NUM_INTERPOLATION_STEPS
    )
    figures.save_interpolation(
        replica.figures / "interpolation.png",
        first / steps.MAX_PIXEL,
        between,
        last / steps.MAX_PIXEL,
    )


def save_reconstructions(replica: Replica, test: datasets.Split) -> None:
    """Draws the first test images above their reconstructions."""
    shape = (_NUM_RECONSTRUCTION_ROWS, _GRID[1], *test.images.shape[1:])
    images = test.images[: shape[0] * shape[1]]
    reconstructions = generate.reconstruct(replica.model, replica.state.params, images)
    figures.save_reconstructions(
        replica.figures / "reconstructions.png",
        images.reshape(shape) / steps.MAX_PIXEL,
        reconstructions.reshape(shape),
    )


def _finish(folder: Path, rows: Sequence[dict[str, float]], summary: dict[str, Any]) -> None:
    figures.save_loss_curves(folder / "figures" / "loss_curves.png", rows, summary["best_epoch"])
    # Last: a run is complete when this file is there.
    run_directory.write_json(folder / "summary.json", summary)


def _summarize_replica(
    replica: Replica, dataset: datasets.Dataset, rows: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """Writes a replica's `summary.json` and its four figures; returns the summary."""
    splits = {"validation": dataset.validation, "test": dataset.test}
    seconds = sum(len(dataset.train.images) / row["images_per_second"] for row in rows)
    summary = {
        "units": "nats per image",
        "seed": replica.seed,
        "best_epoch": replica.epoch,
        "best_step": int(replica.state.step),
        "epochs_trained": len(rows),
        "parameters": num_parameters(replica.state),
        **{
            name: evaluate_split(replica.settings, replica.state, split.images)[0]
            for name, split in splits.items()
        },
        "training_seconds": round(seconds, 1),
    }
    if replica.settings.skip_nonfinite:
        summary[metrics.SKIPPED_COLUMN] = int(sum(row[metrics.SKIPPED_COLUMN] for row in rows))
    save_reconstructions(replica, dataset.test)
    save_samples(replica)
    save_interpolation(replica, dataset.test)
    _finish(replica.folder, rows, summary)
    return summary


def summarize(run: TrainedRun, dataset: datasets.Dataset) -> dict[str, Any]:
    """Writes the summaries and figures of the best epoch; returns the run's summary.

    With several replicas each has its own, and the run's summary holds the means of their
    figures, the standard deviations and the seeds.
    """
    summaries = [
        _summarize_replica(replica, dataset, rows)
        for replica, rows in zip(run.replicas, zip(*run.rows, strict=True), strict=True)
    ]
    if len(summaries) == 1:
        return summaries[0]
    summary = {name: value for name, value in summaries[0].items() if name != "seed"}
    summary["seeds"] = [replica.seed for replica in run.replicas]
    for split in ("validation", "test"):
        mean, std = metrics.mean_and_std([each[split] for each in summaries])
        summary |= {split: mean, f"{split}_std": std}
    _finish(run.workdir, [metrics.combine(rows) for rows in run.rows], summary)
    return summary


def _format_split(summary: dict[str, Any], split: str) -> str:
    terms, std = summary[split], summary.get(f"{split}_std")
    spread = f" ± {std['loss']:.2f}" if std else ""
    parts = f"reconstruction {terms['reconstruction']:.2f}, KL {terms['kl']:.2f}"
    return f"{split} {terms['loss']:.2f}{spread} ({parts})"


def format_summary(summary: dict[str, Any]) -> str:
    """One line of a summary's figures."""
    splits = ", ".join(_format_split(summary, split) for split in ("validation", "test"))
    seeds = f", {len(summary['seeds'])} seeds" if "seeds" in summary else ""
    return (
        f"best epoch {summary['best_epoch']} of {summary['epochs_trained']}{seeds}: {splits} "
        f"{summary['units']}"
    )


def _posterior_measures(replica: Replica, images: np.ndarray) -> dict[str, Any]:
    """Measures of the posteriors of images; warns where they say nothing of them."""
    mean, log_var = generate.encode(replica.model, replica.state.params, images)
    measures = latents.posterior_measures(mean, log_var)
    active, size = measures["active_units"], mean.shape[1]
    print(f"{replica.folder}: {active} of {size} latent variables are active")
    if latents.is_collapsed(active, size):
        print(
            f"warning: the posterior has collapsed, only {active} of {size} latent variables say "
            "something of the image: set loss.kl_warm_up_steps or loss.free_bits, or lower "
            "loss.kl_weight",
            file=sys.stderr,
        )
    return measures


def _likelihood_measures(
    replica: Replica, images: np.ndarray, num_samples: int, sha256: str
) -> dict[str, Any]:
    """The importance-weighted likelihood of binarised images."""
    checksum = int(devices.to_host(steps.checksum(replica.state)))
    estimates = likelihood.estimate(
        replica.model,
        replica.state.params,
        replica.state.root_key,
        images,
        num_samples,
        replica.folder,
        identity=f"{checksum} {sha256} {num_samples}",
    )
    measures = estimates.summarize()
    print(
        f"{replica.folder}: test -log p(x) {measures['negative_log_likelihood']:.2f} ± "
        f"{measures['standard_error']:.2f} nats per image, {num_samples} importance samples "
        f"(effective {measures['effective_sample_size']:.1f}); ELBO "
        f"{-measures['negative_elbo']:.2f}, gap {measures['gap']:.2f}"
    )
    return measures | {
        "num_importance_samples": num_samples,
        "binarization_seed": datasets.EVALUATION_BINARIZATION_SEED,
    }


def evaluate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Mode `evaluate`: metrics and figures of the best epoch so far; on binarised data log p(x)."""
    run = open_best(config, workdir)
    dataset = load_dataset(config)
    run_directory.check_same_data(workdir, dataset.sha256)
    print(format_summary(summarize(run, dataset)))
    for replica in run.replicas:
        measures = {
            "best_step": int(replica.state.step),
            "units": "nats per image",
            "posterior": _posterior_measures(replica, dataset.test.images),
        }
        if config.data.binarization != "none":
            num_samples = config.evaluate.num_importance_samples
            measures["likelihood"] = _likelihood_measures(
                replica, dataset.test.images, num_samples, dataset.sha256
            )
        run_directory.write_json(replica.folder / "evaluation.json", measures)


def sample(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Mode `sample`: a grid of 100 images from random latents, and the images as `.npy`."""
    for replica in open_best(config, workdir).replicas:
        buffer = io.BytesIO()
        np.save(buffer, save_samples(replica))
        path = replica.folder / "samples.npy"
        run_directory.write_atomically(path, buffer.getvalue())
        print(f"wrote {replica.figures / 'samples.png'} and {path}")


def interpolate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Mode `interpolate`: rows from one test digit to another of a different class."""
    run = open_best(config, workdir)
    test = load_dataset(config).test
    for replica in run.replicas:
        save_interpolation(replica, test)
        print(f"wrote {replica.figures / 'interpolation.png'}")
