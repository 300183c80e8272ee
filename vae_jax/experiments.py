"""Several configurations, trained one after the other, and their report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vae_jax import configuration, report, train
from vae_jax.runtime import devices, system_errors
from vae_jax.runtime.errors import UserError
from vae_jax.training import run_directory


def _train_each(configs: Mapping[str, ml_collections.ConfigDict], workdir: Path) -> dict[str, str]:
    """Trains each in a folder of its name; returns what went wrong, by name."""
    failed = {}
    for number, (name, config) in enumerate(configs.items(), 1):
        if devices.is_first_process():
            print(f"{name}, {number} of {len(configs)}: {workdir / name}", flush=True)
        try:
            with system_errors.told_in_one_line(config):
                train.train_and_evaluate(config, workdir / name)
        except UserError as error:
            failed[name] = str(error)
        jax.clear_caches()  # the next one's programs are others
    return failed


def run(
    workdir: Path,
    names: Sequence[str],
    named: Mapping[str, ml_collections.ConfigDict],
    schema: ml_collections.ConfigDict,
    overrides: Mapping[str, Any],
) -> None:
    """Mode `experiments`: trains configurations, skipping what is complete, and reports.

    Args:
      workdir: the folder of the run directories, one for each configuration.
      names: of the configurations to train, in this order.
      named: the configurations in `configs/`.
      schema: the default configuration.
      overrides: fields to change in each, by dotted path.

    Raises:
      UserError: a value cannot be, or, after the report, some runs failed: it names them.
      Interrupted: Ctrl-C or SIGTERM; everything is saved.
    """
    configs = {
        name: configuration.from_flat_dict(
            run_directory.flatten(named[name].to_dict()) | overrides, schema
        )
        for name in names
    }
    failed = _train_each(configs, workdir)
    if not devices.is_first_process():
        return
    if len(failed) < len(configs):
        location = {p: overrides[p] for p in run_directory.LOCATION_FIELDS if p in overrides}
        report.write(workdir, named, schema, location)
    if failed:
        lines = "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        raise UserError(f"{len(failed)} of {len(configs)} runs failed: {lines}")
