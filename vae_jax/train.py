"""Mode `train`: from a configuration to a complete run directory."""

import contextlib
import dataclasses
import math
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vae_jax import configuration, datasets
from vae_jax.evaluation.measures import SUMMARY_NAME, Summary
from vae_jax.evaluation.summary import format_summary, summarize
from vae_jax.evaluation.trained_run import TrainedVAE, load_run, restore_best
from vae_jax.modes import Mode, train_flags
from vae_jax.runtime import compilation, devices, division, interrupts
from vae_jax.runtime.cores import available_cores
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path, read_record, write_json
from vae_jax.training import run_directory, steps
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import train_settings
from vae_jax.training.train_state import num_parameters
from vae_jax.training.trainer import Trainer
from vae_jax.training.weights import WEIGHTS_NAME

_RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def _check_against_data(config: ml_collections.ConfigDict, dataset: datasets.Dataset) -> None:
    """Checks the fields whose limit is the size or the number of the images."""
    num_images, batch_size, loss = len(dataset.train), config.train.batch_size, config.loss
    largest, stride = max(dataset.image_shape[:2]), math.prod(config.decoder.strides)
    warmup, elbo_steps = loss.kl_warmup_steps, loss.elbo_warmup_epochs * (num_images // batch_size)
    problems = [
        (len(dataset.test) < 2, "there is one test image, and must be two; set data.test_size"),
        (
            config.condition.kind == "label" and len(dataset.class_names) < 2,
            f"condition.kind is label, and data.name={dataset.name} has no labels of two or more "
            "classes; put the images into a folder for each class, or give an .npz with labels",
        ),
        (
            stride > largest,
            f"decoder.strides is {config.decoder.strides}, whose product, {stride}, must be at "
            f"most {largest}, the larger side of the images",
        ),
        (
            batch_size > num_images,
            f"train.batch_size is {batch_size}, must be at most {num_images}, the number of "
            "training images",
        ),
        (
            loss.num_importance_samples > 1 and warmup > elbo_steps,
            f"loss.kl_warmup_steps is {warmup}, must be at most {elbo_steps} where "
            "loss.num_importance_samples is above 1, the steps of loss.elbo_warmup_epochs",
        ),
    ]
    for is_problem, message in problems:
        if is_problem:
            raise UserError(message)


def _git_commit() -> str | None:
    """Returns the commit of the code, `-dirty` if it was changed; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        folder = Path(__file__).parent
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _provenance(config: ml_collections.ConfigDict, dataset: datasets.Dataset) -> dict[str, Any]:
    """Collects the facts that, with the configuration, decide a run's numbers."""
    is_binarized = config.data.binarization != "none"
    seed = datasets.EVALUATION_BINARIZATION_SEED if is_binarized else None
    return {
        "versions": {name: metadata.version(name) for name in _RECORDED_PACKAGES},
        "device_kind": jax.devices()[0].device_kind,
        "cores": available_cores(),  # threads of the process share sums among them
        "jax_options": compilation.recorded_options(),
        "git_commit": _git_commit(),
        "data_sha256": dataset.sha256,
        "image_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
        "split_seed": datasets.SPLIT_SEED if dataset.name == "images" else None,
        "evaluation_binarization_seed": seed,
    }


def _begin_run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    dataset: datasets.Dataset,
    existing: RunDirectory | None,
    device_count: int,
) -> RunDirectory:
    """Returns the run directory: the existing one, checked, or a new one, recorded."""
    is_first = devices.is_first_process()
    provenance = _provenance(config, dataset) | {"device_count": device_count}
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
            "may differ from those of a run without a break",
            file=sys.stderr,
        )
    if config.train.num_epochs > existing.config.train.num_epochs and is_first:
        recorded = existing.record["config"]
        train = recorded["train"] | {"num_epochs": config.train.num_epochs}
        record = {**existing.record, "config": recorded | {"train": train}}
        write_json(workdir / run_directory.CONFIG_NAME, record)
    return dataclasses.replace(existing, config=config)


def _final_summary(workdir: Path, config: ml_collections.ConfigDict) -> Summary | None:
    """Reads the summary of a complete run; None if epochs are left, or their evaluation."""
    path = workdir / SUMMARY_NAME
    summary = read_record(path, Summary) if path.exists() else None
    # Mode evaluate writes a summary of an unfinished run too.
    return summary if summary and summary.epochs_trained == config.train.num_epochs else None


def _open_existing(workdir: Path, config: ml_collections.ConfigDict) -> RunDirectory | None:
    """Opens the run to resume; None if nothing was trained in the folder yet."""
    has_model = any((workdir / name).exists() for name in (SUMMARY_NAME, WEIGHTS_NAME))
    has_checkpoint = run_directory.has_checkpoint(workdir)
    if not has_model and not has_checkpoint:
        return None
    run = RunDirectory.open(workdir)
    run_directory.check_resumes(run, config)
    if not has_checkpoint and not _final_summary(workdir, config):
        raise UserError(
            f"--workdir={workdir}: holds a trained model but no checkpoint to resume from; train "
            "in another --workdir"
        )
    return run


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    lock_workdir: bool = True,
) -> None:
    """Trains a model in a run directory, or resumes there, and evaluates it.

    The configuration is valid; `lock_workdir` is whether to refuse other processes that train
    there.

    Raises:
      UserError: the data cannot be loaded or do not fit the configuration, the directory cannot
        hold this run or another process is training there, or the loss is not finite.
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
        batch_size = config.train.batch_size
        settings = train_settings(config, dataset.spec, len(dataset.train) // batch_size)
        size = num_parameters(steps.abstract_state(settings).params)
        divisible = settings.evaluation.divisible_shape
        mesh = division.make_mesh(config.train.num_replicas, batch_size, size, divisible)
        if is_first and not has_record:  # only now: a mistake leaves no folder
            stack.enter_context(run_directory.locked(workdir, lock_workdir))
        run = _begin_run(config, workdir, dataset, existing, mesh.size)
        devices.barrier("run directory begun")
        summary = _final_summary(workdir, config)
        if not summary:
            with interrupts.defer_signals() as request:
                Trainer(run, dataset, mesh, request).run()
        devices.barrier("trained")
        if is_first:
            _report(run, dataset, mesh, summary)


def _report(
    run: RunDirectory, dataset: datasets.Dataset, mesh: jax.sharding.Mesh, summary: Summary | None
) -> None:
    """Summarizes a run that has just been trained, and prints the losses."""
    if summary:
        print(f"{run.path}: the run is complete; {format_summary(summary)}")
        return
    trained = restore_best(run)
    # The programs of several replicas, or processes, are others.
    is_single = len(trained.replicas) == jax.process_count() == 1
    print(format_summary(summarize(trained, dataset, mesh if is_single else None)))
    folders = [run.path / "plots", *(replica.plots for replica in trained.replicas)]
    print(f"plots: {', '.join(map(str, dict.fromkeys(folders)))}")


def train_run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    lock_workdir: bool = True,
) -> TrainedVAE:
    """Trains or resumes as `train_and_evaluate`, and returns the best epoch's model.

    The configuration is from `vae_jax.get_config`, with fields of your own. Of several replicas the
    model of the first seed is returned.

    Raises:
      UserError: a field has an invalid value, or as `train_and_evaluate` does.
    """
    config = configuration.from_dict(config.to_dict())
    with compilation.fixed_options():  # the program's own may differ
        train_and_evaluate(config, workdir, lock_workdir)
    return load_run(workdir, seed=config.seed)


MODE = Mode(train_and_evaluate, flags=train_flags(), in_every_process=True)
