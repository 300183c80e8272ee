"""Mode `report`: one page about all runs below a folder, `report.html` and `report.md`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_jax import shipped_configs
from vae_jax.modes import Mode
from vae_jax.reporting import analysis, page, runs
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path, write_atomically
from vae_jax.runtime.output_record import check_names, record_names
from vae_jax.training.run_directory import DATA_PATH_FIELDS

_NAMES = ("report.html", "report.md")


def _is_report(path: Path) -> bool:
    """Tells whether a file is a report, which earlier versions did not record."""
    return path.is_file() and b"Losses are in nats per image" in path.read_bytes()


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


def write_report(
    workdir: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> None:
    """Reads every run below `workdir`, measures what is not measured yet, writes the report.

    Args:
      workdir: the folder of the run directories.
      overrides: where the data lie, by dotted path, if not at the place the runs name.

    Raises:
      UserError: a field is no place of data, there is no complete run below `workdir`, or it
        cannot be written to.
    """
    workdir, data_paths = local_path("workdir", workdir), overrides or {}
    for path, folder in data_paths.items():
        if path not in DATA_PATH_FIELDS:
            allowed = " and ".join(DATA_PATH_FIELDS)
            raise UserError(
                f"--config.{path} has no meaning in --mode=report, where only {allowed} can be set"
            )
        local_path(path, folder or "")
    check_names(workdir, _NAMES, _is_report)
    complete, skipped_runs = runs.read_runs(workdir)
    complete, repeated = runs.drop_repeated_seeds(complete)
    complete, not_analyzed = analysis.analyze_missing(complete, data_paths)
    configs_by_name = shipped_configs.get_configs_by_name()
    contents, not_reported = page.describe_runs(complete, configs_by_name)
    complete = [run for run in complete if run.workdir in contents]
    skipped_runs |= repeated | not_analyzed | _not_measured(complete) | not_reported
    if not complete:
        reasons = "; ".join(f"{folder}: {what}" for folder, what in skipped_runs.items())
        found = f" ({reasons})" if reasons else ""
        raise UserError(f"--workdir={workdir}: holds no complete run{found}")
    groups = runs.group_runs(complete, configs_by_name)
    context = page.describe_report(groups, contents, skipped_runs, workdir)
    record_names(workdir, _NAMES)
    for name in _NAMES:
        write_atomically(workdir / name, page.render(context, name.endswith("html")))
        print(f"wrote {workdir / name}")
    for folder, what in skipped_runs.items():
        print(f"{folder}: {what}")


MODE = Mode(write_report)
