"""The folder a run leaves: what is in it, who may write there, whether a run can go on there."""

import contextlib
import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from io import FileIO
from pathlib import Path
from typing import Any

import ml_collections

from vae_jax.configuration import flatten
from vae_jax.datasets import SPLIT_SEED, Dataset
from vae_jax.runtime.cores import available_cores
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import (
    PARTIAL_PREFIX,
    errors_that_name,
    local_path,
    read_json,
    write_json,
)

CONFIG_NAME = "config.json"
# What `config.json` names the run by to which a prior was fitted.
PARENT = "prior_fitted_to"
# Where the data lie is no part of what a run is: their SHA-256 is.
DATA_PATH_FIELDS = ("data.data_dir", "data.manual_dir", "data.path")
# Nor is what is done with it when it is trained.
NOT_PART_OF_IDENTITY = (*DATA_PATH_FIELDS, "evaluate.num_importance_samples", "sample.pixels")

_RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_LOCK_NAME = ".lock"


@contextlib.contextmanager
def locked(workdir: Path, lock: bool = True) -> Iterator[None]:
    """Makes the run directory, and keeps other processes from training there.

    The lock ends with the process, whatever ends it. What an earlier one left half-written
    is removed.

    Args:
      workdir: the run directory.
      lock: False where its file system has no locks: nothing then keeps others away.

    Raises:
      UserError: the folder cannot be made or locked, or another process is training there.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # Without a buffer, which a full disk would make an error of closing.
        file = (workdir / _LOCK_NAME).open("ab+", buffering=0)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot be written to ({error.strerror}); give another folder"
        ) from error
    with file:
        if lock:
            _lock(file, workdir)
        with errors_that_name(workdir / _LOCK_NAME):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        for partial in workdir.rglob(f"{PARTIAL_PREFIX}*"):
            partial.unlink(missing_ok=True)
        yield


def _lock(file: FileIO, workdir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode(errors="replace") or "another process"
        raise UserError(
            f"--workdir={workdir}: {holder} is training there; wait for it, stop it, or give "
            "another folder"
        ) from None
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: its file system cannot lock files ({error.strerror}), which "
            "keeps two processes from training there; give a folder of another file system, or "
            "--nolock_workdir where no other process trains there"
        ) from error


def replica_folders(workdir: Path, seed: int, num_replicas: int) -> list[Path]:
    """Lists where each replica's metrics and plots go: the run directory itself if it is one."""
    if num_replicas == 1:
        return [workdir]
    return [workdir / "replicas" / f"seed_{seed + index}" for index in range(num_replicas)]


def read_run_record(workdir: Path) -> dict[str, Any]:
    """Reads the `config.json` of the run in `workdir`: configuration and provenance.

    Raises:
      UserError: there is no run, or its `config.json` is damaged.
    """
    path = workdir / CONFIG_NAME
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"--workdir={workdir}: holds no run (no config.json); train one there first"
        ) from None
    except OSError as error:  # no permission, a name too long
        raise UserError(f"--workdir={workdir}: cannot be read ({error.strerror})") from error
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise UserError(f"{path}: has no 'config' entry; the file is damaged")
    return record


def read_config(workdir: Path) -> dict[str, Any]:
    """Reads the configuration in the `config.json` of `workdir`, as nested dictionaries.

    Raises:
      UserError: there is no run, or its `config.json` is damaged.
    """
    return read_run_record(workdir)["config"]


def read_image_shape(workdir: Path) -> tuple[int, int, int]:
    """Reads `(height, width, channels)` of the images that the run in `workdir` was made from.

    Raises:
      UserError: there is no run, or its `config.json` is damaged.
    """
    match read_run_record(workdir).get("image_shape"):
        case [int(height), int(width), int(channels)]:
            return height, width, channels
    raise UserError(f"{workdir / CONFIG_NAME}: has no 'image_shape'; the file is damaged")


def config_to_record(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Makes nested dictionaries of a configuration; where the data lie is a whole path.

    As given, it would name another place in another working directory.
    """
    recorded = config.copy_and_resolve_references()
    for name in DATA_PATH_FIELDS:
        group, _, field = name.partition(".")
        if path := recorded[group][field]:
            recorded[group][field] = str(local_path(name, path).absolute())
    return recorded.to_dict()


def git_commit(folder: Path) -> str | None:
    """Asks git for the commit the code was at, `-dirty` if it was changed; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def provenance(
    device_kind: str,
    device_count: int,
    jax_options: Mapping[str, Any],
    dataset: Dataset,
    binarization_seed: int | None,
) -> dict[str, Any]:
    """Collects what beside the configuration decides a run's numbers.

    Args:
      device_kind: what the run computes on, as JAX names it.
      device_count: on how many of them.
      jax_options: those on which numbers depend and which the environment may set.
      dataset: its images and labels: their shape and digest are recorded, and the seed they are
        split by.
      binarization_seed: of the validation and test pixels, None where none are drawn.
    """
    return {
        "versions": {name: metadata.version(name) for name in _RECORDED_PACKAGES},
        "device_kind": device_kind,
        "device_count": device_count,
        "cores": available_cores(),  # those of the process: its threads share sums among them
        "jax_options": dict(jax_options),
        "git_commit": git_commit(Path(__file__).parent),
        "data_sha256": dataset.sha256,
        "image_shape": list(dataset.image_shape),
        "split_seed": SPLIT_SEED if dataset.name == "images" else None,
        "evaluation_binarization_seed": binarization_seed,
    }


def environment_changes(workdir: Path, here: Mapping[str, Any]) -> list[str]:
    """Lists what decides numbers, beside configuration and data, and is other than recorded.

    Args:
      workdir: the run directory.
      here: from `provenance`, of this process.
    """
    there = read_run_record(workdir)
    fields = ("versions", "device_kind", "device_count", "cores", "jax_options")
    pairs = [
        flatten({name: record[name] for name in fields if name in record})
        for record in (there, here)
    ]
    # What an older record does not hold is not known to differ.
    return [
        f"{name} was {recorded!r}, is {pairs[1].get(name)!r}"
        for name, recorded in pairs[0].items()
        if recorded != pairs[1].get(name)
    ]


def has_checkpoint(workdir: Path) -> bool:
    """Tells whether a step's checkpoint, whole or damaged, is in a run directory."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name.isdecimal() or name.startswith("damaged_") for name in names)


def can_begin_anew(workdir: Path) -> bool:
    """Tells whether nothing was trained in `workdir` yet: its `config.json` may be another's.

    What says that something was: a checkpoint, rows or a summary.
    """
    rows, summary = workdir / "metrics.csv", workdir / "summary.json"
    # A header alone is there before the first epoch is over.
    has_rows = rows.exists() and len(rows.read_bytes().splitlines()) > 1
    return not (has_rows or summary.exists() or has_checkpoint(workdir))


def check_same_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError where `workdir` holds a run of another configuration."""
    there, here = flatten(read_config(workdir)), flatten(config)
    differing = [
        f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"
        for name in sorted(there.keys() | here.keys())
        if name not in NOT_PART_OF_IDENTITY and there.get(name) != here.get(name)
    ]
    if differing:
        raise UserError(
            f"--workdir={workdir}: holds a run with another configuration: "
            f"{'; '.join(differing)}. Use another --workdir, or the same configuration"
        )


def check_goes_on(workdir: Path, config: Mapping[str, Any]) -> bool:
    """Checks that training with this configuration goes on with the run in `workdir`.

    A run can be trained for more epochs than it was begun with, where they change nothing in those
    it has: where the learning rate does not follow from their number.

    Returns:
      Whether it is to have more epochs.

    Raises:
      UserError: the configurations differ in something else, or the run cannot be trained longer.
    """
    field = "train.num_epochs"
    there, here = flatten(read_config(workdir)), flatten(config)
    before, wanted = there.get(field), here.get(field)
    if not isinstance(before, int) or not isinstance(wanted, int) or before == wanted:
        check_same_config(workdir, config)
        return False
    check_same_config(workdir, {**config, "train": {**config["train"], "num_epochs": before}})
    schedule = here["train.learning_rate_schedule"]
    reason = None
    if wanted < before:
        reason = "a run can be trained for more epochs, not for fewer"
    elif schedule != "constant":
        reason = (
            f"the {schedule} schedule of the learning rate ends with the last epoch, so these "
            "epochs would have been others"
        )
    if reason:
        raise UserError(
            f"--workdir={workdir}: {field} is {before} there, {wanted} here: {reason}. Use another "
            "--workdir, or the same number"
        )
    return True


def record_num_epochs(workdir: Path, num_epochs: int) -> None:
    """Records that the run is to have more epochs; all else that `config.json` holds stays."""
    record = read_run_record(workdir)
    record["config"]["train"]["num_epochs"] = num_epochs
    write_json(workdir / CONFIG_NAME, record)


def _is_foreign(path: Path) -> bool:
    """Tells whether a file is none that a run leaves which ended before its `config.json`."""
    return path.name != _LOCK_NAME and not path.name.startswith(PARTIAL_PREFIX)


def check_workdir(workdir: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError unless a run of this configuration can begin or go on in `workdir`."""
    if "\\" in str(workdir.absolute()):
        # The checkpoint library takes it for a slash.
        raise UserError(
            f"--workdir={workdir}: has a backslash in its whole path, which checkpoints cannot "
            "have; give another folder"
        )
    existing = workdir
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"--workdir={workdir}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--workdir={workdir}: {existing} is not writable; give another folder")
    if (workdir / CONFIG_NAME).exists():
        if not can_begin_anew(workdir):
            check_goes_on(workdir, config)
    elif existing == workdir and (foreign := sorted(filter(_is_foreign, workdir.iterdir()))):
        others = f" and {len(foreign) - 1} more" if foreign[1:] else ""
        raise UserError(
            f"--workdir={workdir}: is neither empty nor a run directory, it holds "
            f"{foreign[0].name}{others}; give a new folder, or move that out of this one"
        )


def check_same_data(workdir: Path, sha256: str) -> None:
    """Raises UserError where the run in `workdir` was made from other data."""
    recorded = read_run_record(workdir).get("data_sha256")
    if recorded != sha256:
        raise UserError(
            f"{workdir / CONFIG_NAME}: the run was made from data with SHA-256 {recorded}, this is "
            f"{sha256}; give the same data, or another --workdir"
        )
