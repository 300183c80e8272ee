"""Mode `train`: from a configuration to a complete run directory."""

import contextlib
import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import ml_collections

from vae_jax import configuration, datasets
from vae_jax.evaluation.measures import SUMMARY_NAME, Summary
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.modes import Mode, train_flags
from vae_jax.runtime import compilation, devices, interrupts
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path, read_record, write_json
from vae_jax.training import run_directory
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.trainer import Trainer

if TYPE_CHECKING:
    from vae_jax.evaluation.trained_vae import TrainedVAE


def _check_against_data(config: ml_collections.ConfigDict, dataset: datasets.Dataset) -> None:
    """Checks the images, and the fields whose limit is their size or number."""
    num_images, batch_size, loss = len(dataset.train), config.train.batch_size, config.loss
    height, width, _ = dataset.image_shape
    test = dataset.test.images
    if (test == test[:1]).all():
        raise UserError(
            f"the test images ({len(test)}) are all alike, so nothing can be told of them: set "
            "data.test_size to 2 or more, or give other images"
        )
    if config.condition.kind == "label" and len(dataset.class_names) < 2:
        raise UserError(
            f"condition.kind is label, and data.name={dataset.name} has no labels of two or more "
            "classes; put the images into a folder for each class, or give an .npz with labels"
        )
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


def _begin_run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    dataset: datasets.Dataset,
    existing: RunDirectory | None,
) -> RunDirectory:
    """Returns the run directory: the existing one, checked, or a new one, recorded."""
    binarized = config.data.binarization != "none"
    provenance = run_directory.provenance(
        device_kind=jax.devices()[0].device_kind,
        device_count=jax.device_count(),
        jax_options=compilation.recorded_options(),
        dataset=dataset,
        binarization_seed=datasets.EVALUATION_BINARIZATION_SEED if binarized else None,
    )
    is_first = devices.is_first_process()
    if not existing:
        record = {"config": run_directory.config_to_record(config)} | provenance
        if is_first:
            write_json(workdir / run_directory.CONFIG_NAME, record)
        return RunDirectory(workdir, record, config)
    run_directory.check_same_data(existing, dataset.sha256)
    changes = run_directory.environment_changes(existing, provenance)
    if changes and is_first:
        print(
            f"warning: this run resumes under other conditions ({'; '.join(changes)}): its numbers "
            "may not be those of a run without a break",
            file=sys.stderr,
        )
    if config.train.num_epochs > existing.config.train.num_epochs and is_first:
        run_directory.record_num_epochs(existing, config)
    return dataclasses.replace(existing, config=config)


def _open_existing(workdir: Path, config: ml_collections.ConfigDict) -> RunDirectory | None:
    """Opens the run that is to be resumed; None if nothing was trained in the folder yet."""
    if not (workdir / run_directory.CONFIG_NAME).exists():
        return None
    if run_directory.can_begin_anew(workdir):
        return None
    run = RunDirectory.open(workdir)
    run_directory.check_resumes(run, config)
    return run


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
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    lock_workdir: bool = True,
) -> None:
    """Trains a model, or resumes where an earlier call stopped, and evaluates it.

    Args:
      config: a valid configuration, `configs/default.py` with some fields changed.
      workdir: the run directory; made if there is none.
      lock_workdir: whether to keep other processes from training there meanwhile.

    Raises:
      UserError: the data cannot be had, the batch is larger than the training split or the
        devices do not divide it, the strides are larger than the images, the warmup of the KL is
        longer than the epochs of the ELBO, the directory cannot hold this run or another process
        is training there, or the loss is not finite.
      Interrupted: Ctrl-C or SIGTERM; everything is saved.
    """
    workdir = local_path("workdir", workdir)
    run_directory.check_workdir(workdir)
    is_first = devices.is_first_process()
    has_record = (workdir / run_directory.CONFIG_NAME).exists()
    with contextlib.ExitStack() as stack:
        if is_first and has_record:
            stack.enter_context(run_directory.locked(workdir, lock_workdir))
        existing = _open_existing(workdir, config)
        dataset = datasets.load(**config.data)
        _check_against_data(config, dataset)
        mesh = devices.make_mesh(config.train.num_replicas, config.train.batch_size)
        if is_first:
            if not has_record:  # not before the data are there: a mistake leaves no folder
                stack.enter_context(run_directory.locked(workdir, lock_workdir))
            _warn_of_long_warmup(config, len(dataset.train))
        run = _begin_run(config, workdir, dataset, existing)
        devices.barrier("run directory begun")
        summary = _final_summary(workdir, config.train.num_epochs)
        if not summary:
            _check_can_resume(workdir)
            with Checkpoints(workdir) as checkpoints, interrupts.defer_signals() as request:
                Trainer(run, dataset, checkpoints, mesh, request).run()
        devices.barrier("trained")
        if is_first:
            _report(run, dataset, summary)


def _report(run: RunDirectory, dataset: datasets.Dataset, summary: Summary | None) -> None:
    """Summarizes a run that has just been trained, and prints the losses."""
    # Not at import: what draws plots is slow, and the first step does not need it.
    from vae_jax.evaluation.summary import format_summary, summarize

    if summary:
        print(f"{run.path}: the run is complete; {format_summary(summary)}")
        return
    trained = restore_best(run)
    print(format_summary(summarize(trained, dataset)))
    folders = [run.path / "plots", *(replica.plots for replica in trained.replicas)]
    print(f"plots: {', '.join(map(str, dict.fromkeys(folders)))}")


def train_run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    lock_workdir: bool = True,
) -> "TrainedVAE":
    """Trains a model, or resumes, evaluates it, and returns it, as `load_run` does.

    Args:
      config: from `vae_jax.get_config`, with fields of your own.
      workdir: the run directory; made if there is none.
      lock_workdir: whether to keep other processes from training there meanwhile.

    Returns:
      The best epoch's model; with several replicas, that of the first seed.

    Raises:
      UserError: a field has a value that it cannot have, or as `train_and_evaluate` does.
    """
    from vae_jax.evaluation.trained_vae import load_run

    config = configuration.from_dict(config.to_dict())
    configuration.warn_without_effect(config)
    with compilation.fixed_options():  # the program's own may be others
        train_and_evaluate(config, workdir, lock_workdir)
    return load_run(workdir, seed=config.seed)


MODE = Mode(train_and_evaluate, flags=train_flags(), in_every_process=True)
