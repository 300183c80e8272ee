"""A run directory: its record, who may write there, whether a run can resume there."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from io import FileIO
from pathlib import Path
from typing import Any

import ml_collections

from vae_jax import configuration
from vae_jax.configuration import flatten
from vae_jax.datasets import SPLIT_SEED, Dataset, DataSpec
from vae_jax.runtime import locks
from vae_jax.runtime.cores import available_cores
from vae_jax.runtime.errors import UserError, check_choice
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
# Nor is how data are read, or how a trained model is used.
NOT_PART_OF_IDENTITY = (
    *DATA_PATH_FIELDS,
    "data.skip_damaged",
    "data.levels",
    "evaluate.num_importance_samples",
    "sample.pixels",
)

_RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_LOCK_NAME = ".lock"
# Larger sizes would overflow in JAX.
_MAX_SIZE = 2**31 - 1


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
        if lock and locks.HAS_LOCKS:
            _lock(file, workdir)
        elif lock:
            print(
                f"{workdir}: this system cannot lock files: nothing keeps a second process from "
                "training there",
                file=sys.stderr,
            )
        with errors_that_name(workdir / _LOCK_NAME):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        for partial in workdir.rglob(f"{PARTIAL_PREFIX}*"):
            partial.unlink(missing_ok=True)
        yield


def _lock(file: FileIO, workdir: Path) -> None:
    try:
        locks.lock(file.fileno())
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


@dataclasses.dataclass(frozen=True, eq=False)
class RunDirectory:
    """A run directory whose `config.json` was read, once.

    Attributes:
      path: the folder.
      record: what `config.json` holds: configuration and provenance.
      config: the recorded configuration, in which a field that the record lacks has its default;
        with `with_overrides`, some fields changed.
    """

    path: Path
    record: Mapping[str, Any]
    config: ml_collections.ConfigDict

    @classmethod
    def open(cls, path: str | os.PathLike[str], name: str = "--workdir") -> "RunDirectory":
        """Reads the record of a run, whichever version wrote it.

        Args:
          path: the folder.
          name: what the path is, for errors.

        Raises:
          UserError: there is no run, or its `config.json` is damaged.
        """
        folder = local_path(name, path)
        record = _read_record(folder, name)
        try:
            return cls(folder, record, configuration.from_record(record["config"]))
        except UserError as error:
            raise UserError(f"{folder / CONFIG_NAME}: {error}") from error

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def spec(self) -> DataSpec:
        """The shape of the images that the run was made from, and their classes.

        Raises:
          UserError: the record has no valid shape, or no valid names.
        """
        names = self.record.get("class_names", [])  # not in older records
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(
                f"{self.path / CONFIG_NAME}: its 'class_names' are no names; the file is damaged"
            )
        match self.record.get("image_shape"):
            case [int(height), int(width), int(channels)] as shape if (
                min(shape) > 0 and max(shape) <= _MAX_SIZE
            ):
                return DataSpec((height, width, channels), tuple(names))
        raise UserError(f"{self.path / CONFIG_NAME}: has no 'image_shape'; the file is damaged")

    def label_index(self, field: str, name: str) -> int:
        """Returns the label of a class of a conditional model, by the class's name.

        Args:
          field: what the name was given as, for the error.
          name: one of the run's classes.

        Raises:
          UserError: the model is not conditional, or there is no such class.
        """
        if self.config.condition.kind == "none":
            raise UserError(
                f"{field}={name}: the model in {self.path} is not conditional; train one with "
                "--config.condition.kind=label"
            )
        check_choice(field, name, self.spec.class_names)
        return self.spec.class_names.index(name)

    @property
    def parent(self) -> str | None:
        """The run whose model a prior was fitted to; None for any other run."""
        return self.record.get(PARENT)

    @property
    def replica_folders(self) -> list[Path]:
        """Each replica's folder of metrics and plots: the run directory itself if it is one."""
        return replica_folders(self.path, self.config.seed, self.config.train.num_replicas)

    def with_config(
        self, config: ml_collections.ConfigDict, changes: Sequence[str] = ()
    ) -> "RunDirectory":
        """Returns the run with fields changed that are not part of what a run is.

        Args:
          config: the configuration with these fields changed.
          changes: groups of other fields that may differ too.

        Raises:
          UserError: another field differs.
        """
        check_same_config(self, config, changes)
        return dataclasses.replace(self, config=config)

    def with_overrides(self, overrides: Mapping[str, Any]) -> "RunDirectory":
        """Returns the run with fields changed, by dotted path, as `with_config` does."""
        return self.with_config(configuration.from_record(self.record["config"], overrides))

    def as_recorded(self) -> "RunDirectory":
        """Returns the run with the recorded configuration."""
        return dataclasses.replace(self, config=configuration.from_record(self.record["config"]))


def replica_folders(workdir: Path, seed: int, num_replicas: int) -> list[Path]:
    """Lists each replica's folder of metrics and plots: the run directory itself if it is one."""
    if num_replicas == 1:
        return [workdir]
    return [workdir / "replicas" / f"seed_{seed + index}" for index in range(num_replicas)]


def _read_record(workdir: Path, name: str) -> dict[str, Any]:
    """Reads the `config.json` of the run in `workdir`.

    Raises:
      UserError: there is no run, or its `config.json` is damaged.
    """
    path = workdir / CONFIG_NAME
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{name}={workdir}: holds no run (no config.json); train one there first"
        ) from None
    except OSError as error:  # no permission, a name too long
        raise UserError(f"{name}={workdir}: cannot be read ({error.strerror})") from error
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise UserError(f"{path}: has no 'config' entry; the file is damaged")
    return record


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
        "class_names": list(dataset.class_names),
        "split_seed": SPLIT_SEED if dataset.name == "images" else None,
        "evaluation_binarization_seed": binarization_seed,
    }


def environment_changes(run: RunDirectory, here: Mapping[str, Any]) -> list[str]:
    """Lists what decides numbers, beside configuration and data, and is other than recorded.

    Args:
      run: the run directory.
      here: from `provenance`, of this process.
    """
    fields = ("versions", "device_kind", "device_count", "cores", "jax_options")
    pairs = [
        flatten({name: record[name] for name in fields if name in record})
        for record in (run.record, here)
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


def check_same_config(
    run: RunDirectory, config: ml_collections.ConfigDict, changes: Sequence[str] = ()
) -> None:
    """Raises UserError if a run has another configuration, some groups of fields apart."""
    there, here = flatten(run.config.to_dict()), flatten(config.to_dict())
    differing = [
        f"{name} is {there[name]!r} there, {here[name]!r} here"
        for name in sorted(here)
        if name not in NOT_PART_OF_IDENTITY
        and name.partition(".")[0] not in changes
        and there[name] != here[name]
    ]
    if differing:
        raise UserError(
            f"--workdir={run.path}: holds a run with another configuration: "
            f"{'; '.join(differing)}. Use another --workdir, or the same configuration"
        )


def check_resumes(run: RunDirectory, config: ml_collections.ConfigDict) -> None:
    """Checks that training with this configuration resumes the run.

    A run can be trained for more epochs than it was begun with if these change nothing in the
    finished epochs: if the learning rate does not depend on their number.

    Raises:
      UserError: the configurations differ in something else, or the run cannot be trained longer.
    """
    before, wanted = run.config.train.num_epochs, config.train.num_epochs
    same_length = config.copy_and_resolve_references()
    same_length.train.num_epochs = before
    check_same_config(run, same_length)
    schedule = config.train.learning_rate_schedule
    reason = None
    if wanted < before:
        reason = "a run can be trained for more epochs, not for fewer"
    elif wanted > before and schedule != "constant":
        reason = (
            f"the {schedule} schedule depends on the number of epochs, so the finished epochs "
            "would have used other learning rates"
        )
    if reason:
        raise UserError(
            f"--workdir={run.path}: train.num_epochs is {before} there, {wanted} here: {reason}. "
            "Use another --workdir, or the same number"
        )


def record_num_epochs(run: RunDirectory, config: ml_collections.ConfigDict) -> None:
    """Records that the run is to have more epochs; everything else in `config.json` stays."""
    recorded = run.record["config"]
    train = {**recorded["train"], "num_epochs": config.train.num_epochs}
    record = {**run.record, "config": {**recorded, "train": train}}
    write_json(run.path / CONFIG_NAME, record)


def _is_foreign(path: Path) -> bool:
    """Tells whether a file is none that a run leaves which ended before its `config.json`."""
    return path.name != _LOCK_NAME and not path.name.startswith(PARTIAL_PREFIX)


def check_workdir(workdir: Path) -> None:
    """Raises UserError unless `workdir` is a run directory, or one can be begun there."""
    if "\\" in workdir.absolute().as_posix():
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
        return
    if existing == workdir and (foreign := sorted(filter(_is_foreign, workdir.iterdir()))):
        others = f" and {len(foreign) - 1} more" if foreign[1:] else ""
        raise UserError(
            f"--workdir={workdir}: is neither empty nor a run directory, it holds "
            f"{foreign[0].name}{others}; give a new folder, or move that out of this one"
        )


def check_same_data(run: RunDirectory, sha256: str) -> None:
    """Raises UserError where a run was made from other data."""
    recorded = run.record.get("data_sha256")
    if recorded != sha256:
        raise UserError(
            f"{run.path / CONFIG_NAME}: the run was made from data with SHA-256 {recorded}, this "
            f"is {sha256}; give the same data, or another --workdir"
        )
