"""Mode `fit_prior`: fits a learned prior to a trained model."""

import os
import shutil

from vae_jax.evaluation.summary import format_summary, summarize
from vae_jax.evaluation.trained_run import load_data, restore_best
from vae_jax.modes import Mode, run_flags
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path, write_json, write_record
from vae_jax.training import prior_fitting, run_directory
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params
from vae_jax.training.weights import WEIGHTS_NAME, write_weights


def fit_prior(run: RunDirectory, output: str | os.PathLike[str] | None = None) -> None:
    """Fits the prior that the configuration names; encoder and decoder do not change.

    The result, in the new folder `output`, is a run directory of its own with parameters alone,
    which names the run it comes from. A second stage of training, as in Dai and Wipf 2019
    (arXiv:1903.05789).

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
    dataset, is_binarized = load_data(trained), config.data.binarization == "dynamic"
    record = {
        **run.record,
        "config": run_directory.config_to_record(config),
        run_directory.PARENT: str(run.path.absolute()),
    }
    folders = RunDirectory(target, record, config).replica_folders
    for replica, folder in zip(trained.replicas, folders, strict=True):
        prior = init_params(model, replica.root_key)["prior"]
        others = {name: value for name, value in replica.params.items() if name != "prior"}
        fitted, fit = prior_fitting.fit_prior(
            model, others, prior, replica.root_key, dataset, is_binarized
        )
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"epoch": str(replica.epoch), "step": str(replica.step)}
        write_weights(folder / WEIGHTS_NAME, {**others, "prior": fitted}, metadata)
        write_record(folder / "prior_fit.json", fit)
        shutil.copy(replica.folder / "metrics.csv", folder)
        print(
            f"seed {replica.seed}: validation -log p(z) {fit.validation[fit.epoch]:.2f} nats per "
            f"image at epoch {fit.epoch}; the standard normal {fit.standard_normal:.2f}"
        )
    write_json(target / run_directory.CONFIG_NAME, record)  # last: now the folder is a run
    print(format_summary(summarize(restore_best(RunDirectory.open(target)), dataset)))


MODE = Mode(fit_prior, flags=run_flags(), changes=("prior",))
