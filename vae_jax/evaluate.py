"""What is done with a trained model: whole-split metrics, figures, samples, interpolations."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import optax

from vae_jax import datasets, figures, generate, metrics, run_directory, steps
from vae_jax.checkpoints import Checkpoints
from vae_jax.errors import UserError
from vae_jax.train_state import TrainState, num_parameters
from vae_jax.vae import VAE, create_vae

_BATCH_SIZE = 500
_GRID = (10, 10)
_NUM_RECONSTRUCTION_ROWS = 3
_NUM_INTERPOLATION_STEPS = 10


def load_dataset(config: ml_collections.ConfigDict) -> datasets.Dataset:
    """Loads the data the configuration names."""
    return datasets.load(**config.data)


def step_settings(config: ml_collections.ConfigDict) -> steps.StepSettings:
    """Builds the model and optimiser the configuration describes."""
    return steps.StepSettings(
        model=create_vae(config.latent_size, config.encoder, config.decoder),
        optimizer=optax.adam(config.train.learning_rate),
        batch_size=config.train.batch_size,
        kl_weight=config.loss.kl_weight,
        binarize=config.data.binarization == "dynamic",
    )


def evaluate_split(
    settings: steps.StepSettings, state: TrainState, images: np.ndarray
) -> dict[str, float]:
    """Mean loss and terms over every image, each counted once, in nats per image.

    Args:
      settings: model and loss.
      state: parameters and root key.
      images: `<uint8>[n, 28, 28]`.
    """
    pieces = []
    for start in range(0, len(images), _BATCH_SIZE):
        batch = images[start : start + _BATCH_SIZE]
        # A short last batch is filled up, so that one program serves all, and cut off again.
        padding = _BATCH_SIZE - len(batch)
        terms = steps.evaluate_batch(
            settings.model,
            state.params,
            state.root_key,
            np.pad(batch, ((0, padding), (0, 0), (0, 0))),
            np.arange(start, start + _BATCH_SIZE),
            settings.kl_weight,
        )
        pieces.append(terms[: len(batch)])
    return metrics.mean_terms(pieces, len(images))


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The best epoch of a run, ready to be looked at.

    Attributes:
      workdir: the run directory.
      epoch: the epoch with the lowest validation loss.
      last_epoch: the last epoch that a checkpoint holds.
      settings: model, optimiser and loss.
      state: the parameters after `epoch`.
    """

    workdir: Path
    epoch: int
    last_epoch: int
    settings: steps.StepSettings
    state: TrainState

    @property
    def model(self) -> VAE:
        """The autoencoder."""
        return self.settings.model

    @property
    def figures(self) -> Path:
        """The folder figures go to."""
        return self.workdir / "figures"


def open_best(config: ml_collections.ConfigDict, workdir: Path) -> TrainedRun:
    """Restores the best checkpoint of the run in `workdir`.

    Raises:
      UserError: there is no run, it is of another configuration, or it has no checkpoint.
    """
    run_directory.check_same_config(workdir, config.to_dict())
    settings = step_settings(config)
    with Checkpoints(workdir) as checkpoints:
        epoch = checkpoints.best_epoch
        if epoch is None:
            raise UserError(f"--workdir={workdir}: holds no checkpoint yet; train first")
        state = checkpoints.restore(epoch, steps.abstract_state(settings))
        return TrainedRun(workdir, epoch, checkpoints.latest_epoch, settings, state)


def save_samples(run: TrainedRun) -> np.ndarray:
    """Draws the grid of samples; returns its images, `<float32>[100, 28, 28]`."""
    images = generate.sample_prior(
        run.model, run.state.params, run.state.root_key, _GRID[0] * _GRID[1]
    )
    grid = images.reshape(*_GRID, *images.shape[1:])
    figures.save_image_grid(
        run.figures / "samples.png", grid, f"Samples from random latents, epoch {run.epoch}"
    )
    return images


def save_interpolation(run: TrainedRun, test: datasets.Split) -> None:
    """Draws rows from one test digit to another of a different class."""
    first, last = (test.images[rows] for rows in generate.pairs_of_different_classes(test.labels))
    between = generate.interpolate(
        run.model, run.state.params, first, last, _NUM_INTERPOLATION_STEPS
    )
    figures.save_interpolation(
        run.figures / "interpolation.png",
        first / steps.MAX_PIXEL,
        between,
        last / steps.MAX_PIXEL,
    )


def save_reconstructions(run: TrainedRun, test: datasets.Split) -> None:
    """Draws the first test images above their reconstructions."""
    shape = (_NUM_RECONSTRUCTION_ROWS, _GRID[1], *test.images.shape[1:])
    images = test.images[: shape[0] * shape[1]]
    reconstructions = generate.reconstruct(run.model, run.state.params, images)
    figures.save_reconstructions(
        run.figures / "reconstructions.png",
        images.reshape(shape) / steps.MAX_PIXEL,
        reconstructions.reshape(shape),
    )


def summarize(run: TrainedRun, dataset: datasets.Dataset) -> dict[str, Any]:
    """Writes `summary.json` and the four figures of the best epoch; returns the summary."""
    rows = metrics.read_csv(run.workdir / "metrics.csv")
    rows = [row for row in rows if row["epoch"] <= run.last_epoch]
    summary = {
        "units": "nats per image",
        "best_epoch": run.epoch,
        "best_step": int(run.state.step),
        "epochs_trained": run.last_epoch,
        "parameters": num_parameters(run.state),
        "validation": evaluate_split(run.settings, run.state, dataset.validation.images),
        "test": evaluate_split(run.settings, run.state, dataset.test.images),
        "training_seconds": round(
            sum(len(dataset.train.images) / row["images_per_second"] for row in rows), 1
        ),
    }
    figures.save_loss_curves(run.figures / "loss_curves.png", rows, run.epoch)
    save_reconstructions(run, dataset.test)
    save_samples(run)
    save_interpolation(run, dataset.test)
    # Last: a run is complete when this file is there.
    run_directory.write_json(run.workdir / "summary.json", summary)
    return summary


def format_summary(summary: dict[str, Any]) -> str:
    """One line of a summary's figures."""
    splits = ", ".join(
        f"{split} {summary[split]['loss']:.2f} = {summary[split]['reconstruction']:.2f}"
        f" + {summary[split]['kl']:.2f}"
        for split in ("validation", "test")
    )
    return (
        f"best epoch {summary['best_epoch']} of {summary['epochs_trained']}: {splits} "
        f"(loss = reconstruction + KL, {summary['units']})"
    )


def evaluate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Mode `evaluate`: metrics and figures of the best epoch so far."""
    run = open_best(config, workdir)
    dataset = load_dataset(config)
    run_directory.check_same_data(workdir, dataset.sha256)
    print(format_summary(summarize(run, dataset)))


def sample(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Mode `sample`: a grid of 100 images from random latents, and the images as `.npy`."""
    run = open_best(config, workdir)
    buffer = io.BytesIO()
    np.save(buffer, save_samples(run))
    run_directory.write_atomically(workdir / "samples.npy", buffer.getvalue())
    print(f"wrote {run.figures / 'samples.png'} and {workdir / 'samples.npy'}")


def interpolate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Mode `interpolate`: rows from one test digit to another of a different class."""
    run = open_best(config, workdir)
    save_interpolation(run, load_dataset(config).test)
    print(f"wrote {run.figures / 'interpolation.png'}")
