"""Mode `report`: one page about all runs below a folder, `report.html` and `report.md`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from vae_jax.reporting import analysis, page, runs
from vae_jax.runtime.errors import UserError, describe
from vae_jax.runtime.files import local_path, write_atomically
from vae_jax.training.run_directory import DATA_PATH_FIELDS


def _not_measured(complete: Sequence[runs.Run]) -> dict[Path, str]:
    """Lists what could not be measured of a model, and why, by its folder."""
    reasons = {
        model.folder: model.analysis.reasons()
        for run in complete
        for model in run.models
        if model.analysis
    }
    return {
        folder: "; ".join(f"{name} is not measured: {why}" for name, why in each.items())
        for folder, each in reasons.items()
        if each
    }


def _check_each(
    complete: Sequence[runs.Run], configs_by_name: Mapping[str, ml_collections.ConfigDict]
) -> tuple[list[runs.Run], dict[Path, str]]:
    """Separates the runs that can be shown from those that cannot, and says why."""
    shown, problems = [], {}
    for run in complete:
        try:
            page.check(run, configs_by_name)
            shown.append(run)
        except Exception as error:  # whatever it is, the others are reported
            problems[run.workdir] = f"cannot be shown: {describe(error)}"
    return shown, problems


def write_report(
    workdir: str | os.PathLike[str],
    configs_by_name: Mapping[str, ml_collections.ConfigDict],
    default: ml_collections.ConfigDict,
    data_paths: Mapping[str, Any],
) -> None:
    """Reads every run below `workdir`, measures what is not measured yet, writes the report.

    Args:
      workdir: the folder of the run directories.
      configs_by_name: the configurations in `configs/`, in the order of the tables.
      default: the default configuration.
      data_paths: where the data lie, by dotted path, where not at the place the runs name.

    Raises:
      UserError: a field is no place of data, there is no complete run below `workdir`, or it
        cannot be written to.
    """
    workdir = local_path("workdir", workdir)
    for path, folder in data_paths.items():
        if path not in DATA_PATH_FIELDS:
            allowed = " and ".join(DATA_PATH_FIELDS)
            raise UserError(
                f"--config.{path} has no meaning in --mode=report, where only {allowed} can be set"
            )
        local_path(path, folder or "")
    complete, skipped_runs = runs.read_runs(workdir, default)
    complete, repeated = runs.drop_repeated_seeds(complete)
    complete, not_analyzed = analysis.analyze_missing(complete, data_paths)
    complete, not_reported = _check_each(complete, configs_by_name)
    skipped_runs |= repeated | not_analyzed | _not_measured(complete) | not_reported
    if not complete:
        reasons = "; ".join(f"{folder}: {what}" for folder, what in skipped_runs.items())
        found = f" ({reasons})" if reasons else ""
        raise UserError(f"--workdir={workdir}: holds no complete run{found}")
    groups = runs.group_runs(complete, configs_by_name)
    for name in ("report.html", "report.md"):
        is_html = name.endswith("html")
        text = page.render(groups, skipped_runs, configs_by_name, workdir, is_html)
        write_atomically(workdir / name, text)
        print(f"wrote {workdir / name}")
    for folder, what in skipped_runs.items():
        print(f"{folder}: {what}")
