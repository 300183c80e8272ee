"""Mode `fit_prior`: a learned prior for a model that is trained already."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from vae_jax.evaluation.prior_fitting import PriorFit
from vae_jax.evaluation.prior_fitting import fit_prior as fit
from vae_jax.evaluation.summary import format_summary, summarize
from vae_jax.evaluation.trained_run import Replica, load_data, restore_best
from vae_jax.model.vae import Params
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import (
    local_path,
    move_unless_there,
    scratch_folder,
    write_json,
    write_record,
)
from vae_jax.training import run_directory
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params
from vae_jax.training.weights import WEIGHTS_NAME, write_weights

FIT_NAME = "prior_fit.json"


def fit_prior(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Fits the prior that the configuration names, encoder and decoder as they are.

    What results is a run directory of its own with parameters alone, which names the one it comes
    from. A second stage of training, as in Dai and Wipf 2019 (arXiv:1903.05789).

    Args:
      config: the run's, but for the fields of the prior.
      workdir: the run directory.
      output: the new run directory.

    Raises:
      UserError: there is no run, its data cannot be had, the prior has nothing to learn, or the
        new folder is missing or not empty.
    """
    if config.prior.kind == "standard_normal":
        raise UserError(
            "prior.kind is 'standard_normal', which has nothing to learn; name another, e.g. "
            "--config.prior.kind=coupling_flow"
        )
    if config.prior.kind == "vamp" and config.prior.pseudo_inputs == "data":
        raise UserError(
            "prior.pseudo_inputs is 'data', which has nothing to learn; drop it, or train with it"
        )
    if output is None:
        raise UserError("--output is missing; give a new folder for the run with the fitted prior")
    target = local_path("--output", output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--output={target}: is there already; give a new folder")
    record = run_directory.read_run_record(local_path("workdir", workdir))
    parent_config = config.copy_and_resolve_references()
    parent_config.prior.update(record["config"]["prior"])
    run = restore_best(parent_config, workdir)
    dataset = load_data(config, run)
    model = evaluation_settings(config, dataset.image_shape).model
    fits = []
    for replica in run.replicas:
        prior = init_params(model, replica.root_key)["prior"]
        others = {name: each for name, each in replica.params.items() if name != "prior"}
        is_binarized = config.data.binarization == "dynamic"
        fitted, measures = fit(model, others, prior, replica.root_key, dataset, is_binarized)
        fits.append((replica, {**others, "prior": fitted}, measures))
    record["config"] = run_directory.config_to_record(config)
    record[run_directory.PARENT] = str(run.source.absolute())
    _write(target, record, fits)
    for replica, _, measures in fits:
        print(_format(replica, measures))
    print(format_summary(summarize(restore_best(config, target), dataset)))


def _write(
    target: Path, record: dict[str, Any], fits: Sequence[tuple[Replica, Params, PriorFit]]
) -> None:
    """Writes a run directory with parameters alone, whole or not at all."""
    folders = run_directory.replica_folders(target, fits[0][0].seed, len(fits))
    with scratch_folder(target.parent, ".fitting.") as scratch:
        complete = scratch / "complete"
        for (replica, params, measures), folder in zip(fits, folders, strict=True):
            new_folder = complete / folder.relative_to(target)
            new_folder.mkdir(parents=True)
            metadata = {"epoch": str(replica.epoch), "step": str(replica.step)}
            write_weights(new_folder / WEIGHTS_NAME, params, metadata)
            write_record(new_folder / FIT_NAME, measures)
            shutil.copy(replica.folder / "metrics.csv", new_folder)
        write_json(complete / run_directory.CONFIG_NAME, record)
        if target.exists():
            target.rmdir()
        move_unless_there(complete, target)


def _format(replica: Replica, fit: PriorFit) -> str:
    return (
        f"seed {replica.seed}: validation -log p(z) {fit.validation[fit.epoch]:.2f} nats per image "
        f"at epoch {fit.epoch} of {len(fit.train)}; the standard normal {fit.standard_normal:.2f}"
    )
