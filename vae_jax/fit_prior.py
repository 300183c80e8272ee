"""Mode `fit_prior`: a learned prior for a model that is trained already."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_jax.evaluation.prior_fitting import PriorFit
from vae_jax.evaluation.prior_fitting import fit_prior as fit
from vae_jax.evaluation.summary import format_summary, summarize
from vae_jax.evaluation.trained_run import Replica, load_data, restore_best
from vae_jax.model.vae import Params
from vae_jax.modes import Mode, run_flags
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import (
    local_path,
    move_unless_there,
    scratch_folder,
    write_json,
    write_record,
)
from vae_jax.training import run_directory
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params
from vae_jax.training.weights import WEIGHTS_NAME, write_weights

FIT_NAME = "prior_fit.json"


def fit_prior(
    run: RunDirectory,
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Fits the prior that the configuration names, encoder and decoder as they are.

    What results is a run directory of its own with parameters alone, which names the one it comes
    from. A second stage of training, as in Dai and Wipf 2019 (arXiv:1903.05789).

    Args:
      run: the run directory, its configuration with the prior to fit.
      output: the new run directory.

    Raises:
      UserError: there is no run, its data cannot be had, the prior has nothing to learn, or the
        new folder is missing or not empty.
    """
    if output is None:
        raise UserError("--output is missing; give a new folder for the run with the fitted prior")
    target = local_path("--output", output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--output={target}: is there already; give a new folder")
    config = run.config
    model = evaluation_settings(config, run.spec).model
    if not model.prior.is_learned:
        fields = " ".join(f"prior.{name}={value}" for name, value in config.prior.items())
        raise UserError(
            f"this prior has nothing to learn ({fields}); name another, e.g. "
            "--config.prior.kind=coupling_flow"
        )
    trained = restore_best(run.as_recorded())
    dataset = load_data(trained)
    fits = []
    for replica in trained.replicas:
        prior = init_params(model, replica.root_key)["prior"]
        others = {name: each for name, each in replica.params.items() if name != "prior"}
        is_binarized = config.data.binarization == "dynamic"
        fitted, measures = fit(model, others, prior, replica.root_key, dataset, is_binarized)
        fits.append((replica, {**others, "prior": fitted}, measures))
    record = {
        **run.record,
        "config": run_directory.config_to_record(config),
        run_directory.PARENT: str(run.path.absolute()),
    }
    _write(target, record, fits)
    for replica, _, measures in fits:
        print(_format(replica, measures))
        loss = measures.validation[measures.epoch] - measures.standard_normal
        if loss > 0:
            print(
                f"warning: seed {replica.seed}: the fitted prior is worse than the standard normal "
                f"by {loss:.2f} nats per image: use the run as it was, or fit another prior, e.g. "
                "with a smaller prior.hidden_size or prior.num_components",
                file=sys.stderr,
            )
    print(format_summary(summarize(restore_best(RunDirectory.open(target)), dataset)))


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


MODE = Mode(fit_prior, flags=run_flags(), changes=("prior",))
