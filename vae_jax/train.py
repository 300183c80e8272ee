"""Mode `train`: from a configuration to a complete run directory."""

import contextlib
import math
import os
import sys
from pathlib import Path

import jax
import ml_collections

from vae_jax import datasets
from vae_jax.evaluation.measures import SUMMARY_NAME, Summary
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.runtime import compilation, devices, interrupts
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path, read_record, write_json
from vae_jax.training import run_directory
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.trainer import Trainer


def _check_against_data(config: ml_collections.ConfigDict, dataset: datasets.Dataset) -> None:
    """Checks the fields whose limit is the images' size or the number of training images."""
    num_images, batch_size, loss = len(dataset.train), config.train.batch_size, config.loss
    height, width, _ = dataset.image_shape
    stride = math.prod(config.decoder.strides)
    if stride > max(height, width):
        raise UserError(
            f"decoder.strides is {config.decoder.strides}, whose product, {stride}, must be at "
            f"most {max(height, width)}: the images are {height}x{width}"
        )
    if batch_size > num_images:
        raise UserError(
            f"train.batch_size is {batch_size}, must be at most {num_images}, "
            "the number of training images"
        )
    elbo_steps = loss.elbo_warmup_epochs * (num_images // batch_size)
    if loss.num_importance_samples > 1 and loss.kl_warmup_steps > elbo_steps:
        raise UserError(
            f"loss.kl_warmup_steps is {loss.kl_warmup_steps}, must be at most {elbo_steps} where "
            "loss.num_importance_samples is above 1, the steps of loss.elbo_warmup_epochs"
        )


def _warn_of_long_warmup(config: ml_collections.ConfigDict, num_images: int) -> None:
    """Warns where the run ends before the KL has its whole weight."""
    num_steps = config.train.num_epochs * (num_images // config.train.batch_size)
    if config.loss.kl_warmup_steps > num_steps:
        print(
            f"warning: loss.kl_warmup_steps is {config.loss.kl_warmup_steps}, and the run has "
            f"{num_steps} steps: loss.kl_weight is never reached",
            file=sys.stderr,
        )


def _begin_run(config: ml_collections.ConfigDict, workdir: Path, dataset: datasets.Dataset) -> None:
    """Writes the run's `config.json`, or checks that the one there fits."""
    path = workdir / run_directory.CONFIG_NAME
    binarized = config.data.binarization != "none"
    provenance = run_directory.provenance(
        device_kind=jax.devices()[0].device_kind,
        device_count=jax.device_count(),
        jax_options=compilation.recorded_options(),
        dataset=dataset,
        binarization_seed=datasets.EVALUATION_BINARIZATION_SEED if binarized else None,
    )
    if path.exists() and not run_directory.can_begin_anew(workdir):
        is_longer = run_directory.check_goes_on(workdir, config.to_dict())
        run_directory.check_same_data(workdir, dataset.sha256)
        if changes := run_directory.environment_changes(workdir, provenance):
            print(
                f"warning: this run goes on under other conditions ({'; '.join(changes)}): its "
                "numbers may not be those of a run without a break",
                file=sys.stderr,
            )
        if is_longer:
            run_directory.record_num_epochs(workdir, config.train.num_epochs)
        return
    write_json(path, {"config": run_directory.config_to_record(config)} | provenance)


def _check_can_resume(workdir: Path) -> None:
    """Raises UserError where a trained model is, and no checkpoint to train it further from."""
    if (workdir / SUMMARY_NAME).exists() and not run_directory.has_checkpoint(workdir):
        raise UserError(
            f"--workdir={workdir}: holds a trained model but no checkpoint to go on from; train in "
            "another --workdir"
        )


def _final_summary(workdir: Path, num_epochs: int) -> Summary | None:
    """Reads the summary of a complete run; None where epochs are left, or their evaluation."""
    path = workdir / SUMMARY_NAME
    summary = read_record(path, Summary) if path.exists() else None
    # Mode evaluate writes a summary of an unfinished run too.
    return summary if summary and summary.epochs_trained == num_epochs else None


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike[str], lock: bool = True
) -> None:
    """Trains a model, or goes on where an earlier call stopped, and evaluates it.

    Args:
      config: a valid configuration, `configs/default.py` with some fields changed.
      workdir: the run directory; made where there is none.
      lock: whether to keep other processes from training there meanwhile.

    Raises:
      UserError: the data cannot be had, the batch is larger than the training split or the
        devices do not divide it, the strides are larger than the images, the warmup of the KL is
        longer than the epochs of the ELBO, the directory cannot hold this run or another process
        is training there, or the loss is not finite.
      Interrupted: Ctrl-C or SIGTERM; everything is saved.
    """
    workdir = local_path("workdir", workdir)
    run_directory.check_workdir(workdir, config.to_dict())
    dataset = datasets.load(**config.data)
    _check_against_data(config, dataset)
    mesh = devices.make_mesh(config.train.num_replicas, config.train.batch_size)
    first = devices.is_first_process()
    with run_directory.locked(workdir, lock) if first else contextlib.nullcontext():
        if first:
            _warn_of_long_warmup(config, len(dataset.train))
            _begin_run(config, workdir, dataset)
        devices.barrier("run directory begun")
        summary = _final_summary(workdir, config.train.num_epochs)
        if not summary:
            _check_can_resume(workdir)
            with Checkpoints(workdir) as checkpoints, interrupts.defer_signals() as request:
                Trainer(config, workdir, dataset, checkpoints, mesh, request).run()
        devices.barrier("trained")
        if not first:
            return
        # Not at import: what draws plots is slow, and the first step does not need it.
        from vae_jax.evaluation.summary import format_summary, summarize

        if summary:
            print(f"{workdir}: the run is complete; {format_summary(summary)}")
            return
        run = restore_best(config, workdir)
        print(format_summary(summarize(run, dataset)))
    folders = [workdir / "plots", *(replica.plots for replica in run.replicas)]
    print(f"plots: {', '.join(map(str, dict.fromkeys(folders)))}")
