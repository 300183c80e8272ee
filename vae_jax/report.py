"""Mode `report`: one page about all runs below a folder, `report.html` and `report.md`."""

import os
from collections.abc import Mapping
from typing import Any

from vae_jax import shipped_configs
from vae_jax.modes import Mode
from vae_jax.reporting import analysis, page, runs
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path, write_atomically
from vae_jax.runtime.output_record import check_names, record_names
from vae_jax.training.run_directory import DATA_PATH_FIELDS

_NAMES = ("report.html", "report.md")


def write_report(
    workdir: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> None:
    """Reads every run below `workdir`, measures what is missing, and writes the report.

    Args:
      workdir: the folder of the run directories.
      overrides: places of the data, by dotted path, if not those that the runs name.

    Raises:
      UserError: no run is complete, `workdir` cannot be written to, or a field is another one.
    """
    workdir, data_paths = local_path("workdir", workdir), overrides or {}
    for path in data_paths.keys() - DATA_PATH_FIELDS:
        allowed = " and ".join(DATA_PATH_FIELDS)
        raise UserError(
            f"--config.{path} has no meaning in --mode=report, where only {allowed} can be set"
        )
    check_names(workdir, _NAMES)
    groups, problems = runs.read_groups(workdir, shipped_configs.get_configs_by_name())
    if not groups:
        reasons = [f"; {folder}: {reason}" for folder, reason in problems.items()]
        raise UserError(f"--workdir={workdir}: holds no complete run{''.join(reasons)}")
    problems |= analysis.analyze_missing(groups, data_paths)
    sections = page.describe(groups, problems)
    record_names(workdir, _NAMES)
    for name in _NAMES:
        write_atomically(workdir / name, page.render(sections, name.endswith("html")))
        print(f"wrote {workdir / name}")
    for folder, reason in problems.items():
        print(f"{folder}: {reason}")


MODE = Mode(write_report)
