"""Mode `experiments`: several configurations trained one after the other, and their report."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags

from vae_jax import configuration, report, shipped_configs, train
from vae_jax.modes import Mode, train_flags
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError, check_choice, describe
from vae_jax.runtime.files import local_path
from vae_jax.runtime.system_errors import system_errors_as_user_errors
from vae_jax.shipped_configs import REFERENCE_CONFIGS
from vae_jax.training.run_directory import DATA_PATH_FIELDS


def run_experiments(
    workdir: str | os.PathLike[str],
    overrides: Mapping[str, Any],
    configs: Sequence[str] = REFERENCE_CONFIGS,
    lock_workdir: bool = True,
) -> None:
    """Trains configurations, skipping those that are complete, and reports.

    Args:
      workdir: the folder of the run directories, one for each configuration.
      overrides: fields to change in each, by dotted path.
      configs: names of the configurations to train, in this order.
      lock_workdir: as for `train.train_and_evaluate`.

    Raises:
      UserError: a name or a value is invalid; or, after the report, some runs failed.
      Interrupted: Ctrl-C or SIGTERM; everything is saved.
    """
    workdir, named, failed = local_path("workdir", workdir), {}, {}
    for name in configs:
        check_choice("--configs", name, shipped_configs.get_names())
        config = shipped_configs.get_config(name)
        named[name] = configuration.from_dict(config.to_dict(), overrides)
    for number, (name, config) in enumerate(named.items(), 1):
        if devices.is_first_process():
            print(f"{name}, {number} of {len(named)}: {workdir / name}", flush=True)
        try:
            with system_errors_as_user_errors(config.train.batch_size):
                train.train_and_evaluate(config, workdir / name, lock_workdir)
        except Exception as error:  # the other runs are trained, whatever is wrong with this one
            failed[name] = describe(error)
        jax.clear_caches()  # the next run has other programs
    if not devices.is_first_process():
        return
    if len(failed) < len(named):
        data_paths = {path: overrides[path] for path in DATA_PATH_FIELDS if path in overrides}
        report.write_report(workdir, data_paths)
    if failed:
        lines = "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        raise UserError(f"{len(failed)} of {len(named)} runs failed: {lines}")


_FLAGS = train_flags()
flags.DEFINE_list("configs", None, "Names of files in configs/.", flag_values=_FLAGS)
MODE = Mode(run_experiments, flags=_FLAGS, in_every_process=True)
