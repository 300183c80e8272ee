"""Mode `fit_prior`: fits a learned prior to a trained model."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_jax.evaluation.summary import format_summary, summarize
from vae_jax.evaluation.trained_run import Replica, load_data, restore_best
from vae_jax.model.vae import Params
from vae_jax.modes import Mode, run_flags
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path, scratch_folder, write_json, write_record
from vae_jax.training import prior_fitting, run_directory
from vae_jax.training.prior_fitting import PriorFit
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params
from vae_jax.training.weights import WEIGHTS_NAME, write_weights


def fit_prior(run: RunDirectory, output: str | os.PathLike[str] | None = None) -> None:
    """Fits the prior that the configuration names; encoder and decoder do not change.

    The result is a run directory of its own with parameters alone, which names the run it comes
    from. A second stage of training, as in Dai and Wipf 2019 (arXiv:1903.05789).

    Args:
      run: the run directory, its configuration with the prior to fit.
      output: the new run directory.

    Raises:
      UserError: the run or its data cannot be read, the prior has no parameters, or the new folder
        is missing or not empty.
    """
    if output is None:
        raise UserError("--output is missing; give a new folder for the run with the fitted prior")
    target = local_path("--output", output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--output={target}: exists already; give a new folder")
    config = run.config
    model = evaluation_settings(config, run.spec).model
    if not model.prior.is_learned:
        fields = " ".join(f"prior.{name}={value}" for name, value in config.prior.items())
        raise UserError(
            f"this prior has no parameters to learn ({fields}); name another, e.g. "
            "--config.prior.kind=coupling_flow"
        )
    trained = restore_best(RunDirectory.open(run))
    dataset = load_data(trained)
    is_binarized = config.data.binarization == "dynamic"
    fits = []
    for replica in trained.replicas:
        prior = init_params(model, replica.root_key)["prior"]
        others = {name: value for name, value in replica.params.items() if name != "prior"}
        fitted, fit = prior_fitting.fit_prior(
            model, others, prior, replica.root_key, dataset, is_binarized
        )
        fits.append((replica, {**others, "prior": fitted}, fit))
    record = {
        **run.record,
        "config": run_directory.config_to_record(config),
        run_directory.PARENT: str(run.path.absolute()),
    }
    _write(target, record, fits)
    for replica, _, fit in fits:
        _report(replica, fit)
    print(format_summary(summarize(restore_best(RunDirectory.open(target)), dataset)))


def _write(
    target: Path, record: dict[str, Any], fits: Sequence[tuple[Replica, Params, PriorFit]]
) -> None:
    """Writes a run directory with parameters alone, atomically."""
    folders = run_directory.replica_folders(target, fits[0][0].seed, len(fits))
    with scratch_folder(target.parent, ".fitting.") as scratch:
        complete = scratch / "complete"
        for (replica, params, fit), folder in zip(fits, folders, strict=True):
            new_folder = complete / folder.relative_to(target)
            new_folder.mkdir(parents=True)
            metadata = {"epoch": str(replica.epoch), "step": str(replica.step)}
            write_weights(new_folder / WEIGHTS_NAME, params, metadata)
            write_record(new_folder / "prior_fit.json", fit)
            shutil.copy(replica.folder / "metrics.csv", new_folder)
        write_json(complete / run_directory.CONFIG_NAME, record)
        if target.exists():
            target.rmdir()
        complete.rename(target)


def _report(replica: Replica, fit: PriorFit) -> None:
    """Prints the losses of a fit; warns if the standard normal is better."""
    loss = fit.validation[fit.epoch]
    print(
        f"seed {replica.seed}: validation -log p(z) {loss:.2f} nats per image at epoch {fit.epoch} "
        f"of {len(fit.train)}; the standard normal {fit.standard_normal:.2f}"
    )
    if loss > fit.standard_normal:
        print(
            f"warning: seed {replica.seed}: the fitted prior is worse than the standard normal by "
            f"{loss - fit.standard_normal:.2f} nats per image: use the run as it was, or fit "
            "another prior, e.g. with a smaller prior.hidden_size or prior.num_components",
            file=sys.stderr,
        )


MODE = Mode(fit_prior, flags=run_flags(), changes=("prior",))
