"""A run directory: its record, the lock, whether a run can resume there."""

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from vae_jax import configuration
from vae_jax.configuration import flatten
from vae_jax.datasets import DataSpec
from vae_jax.runtime import locks
from vae_jax.runtime.errors import UserError, check_choice
from vae_jax.runtime.files import PARTIAL_PREFIX, local_path, read_json

CONFIG_NAME = "config.json"
# The entry of `config.json` that names the run to which a prior was fitted.
PARENT = "prior_fitted_to"
# The path of the data does not identify a run: their SHA-256 does.
DATA_PATH_FIELDS = ("data.data_dir", "data.manual_dir", "data.path")
# Nor does how data are read, how often a run is saved, or how a trained model is used.
NOT_PART_OF_IDENTITY = (
    *DATA_PATH_FIELDS,
    "data.skip_damaged",
    "data.levels",
    "data.on_device",
    "train.checkpoint_seconds",
    "evaluate.num_importance_samples",
    "sample.pixels",
)

_LOCK_NAME = ".lock"
# The entries of a record that decide numbers, beside configuration and data.
_ENVIRONMENT = ("versions", "device_kind", "device_count", "cores", "jax_options")
_MAX_SIZE = 2**31 - 1  # larger sizes overflow in JAX


@contextlib.contextmanager
def locked(workdir: Path, lock: bool = True) -> Iterator[None]:
    """Makes the run directory, and refuses other processes that train there.

    The lock ends with the process; `lock` is False on a file system without locks. Unfinished files
    of an earlier process are removed.

    Raises:
      UserError: the folder cannot be locked, or another process is training there.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / _LOCK_NAME).open("ab+", buffering=0) as file:
        try:
            if lock:
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
                f"--workdir={workdir}: its file system cannot lock files ({error.strerror}); give "
                "another folder, or --nolock_workdir if no other process trains there"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        for partial in workdir.rglob(f"{PARTIAL_PREFIX}*"):
            partial.unlink(missing_ok=True)
        yield


@dataclasses.dataclass(frozen=True, eq=False)
class RunDirectory:
    """A run directory whose `config.json` was read, once."""

    path: Path
    record: Mapping[str, Any]  # the content of `config.json`: configuration and provenance
    # The recorded configuration, in which a field that the record lacks has its default; with
    # `with_config`, some fields changed.
    config: ml_collections.ConfigDict

    @classmethod
    def open(cls, path: str | os.PathLike[str], name: str = "--workdir") -> "RunDirectory":
        """Reads the record of a run of any version; `name` is the path's in errors.

        Raises:
          UserError: there is no run, or its `config.json` is damaged.
        """
        folder = local_path(name, path)
        file = folder / CONFIG_NAME
        if not os.path.lexists(file):
            raise UserError(f"{name}={folder}: holds no run (no {CONFIG_NAME}); train one there")
        record = read_json(file)
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise UserError(f"{file}: has no 'config' entry; the file is damaged")
        try:
            return cls(folder, record, configuration.from_dict(record["config"]))
        except UserError as error:
            raise UserError(f"{file}: {error}") from error

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def spec(self) -> DataSpec:
        """The shape of the images that the run was made from, and their classes.

        Raises:
          UserError: the record has no valid shape, or no valid names.
        """
        names = self.record.get("class_names", [])  # not in older records
        are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
        match self.record.get("image_shape"):
            case [int(height), int(width), int(channels)] as shape if (
                are_names and min(shape) > 0 and max(shape) <= _MAX_SIZE
            ):
                return DataSpec((height, width, channels), tuple(names))
        raise UserError(
            f"{self.path / CONFIG_NAME}: its 'image_shape' or 'class_names' is not valid; the file "
            "is damaged"
        )

    def label_index(self, field: str, name: str) -> int:
        """Returns the label of a class of a conditional model, by the class's name.

        Raises:
          UserError: the model is not conditional, or there is no such class; names the `field`.
        """
        if self.config.condition.kind == "none":
            raise UserError(f"{field}={name}: the model in {self.path} is not conditional")
        check_choice(field, name, self.spec.class_names)
        return self.spec.class_names.index(name)

    @property
    def parent(self) -> str | None:
        """The run whose model a prior was fitted to; None for any other run."""
        return self.record.get(PARENT)

    @property
    def replica_folders(self) -> list[Path]:
        """Each replica's folder of metrics and plots: the run directory itself if it is one."""
        seed, count = self.config.seed, self.config.train.num_replicas
        if count == 1:
            return [self.path]
        return [self.path / "replicas" / f"seed_{seed + index}" for index in range(count)]

    def with_config(
        self, config: ml_collections.ConfigDict, changes: Sequence[str] = ()
    ) -> "RunDirectory":
        """Returns the run with a configuration that differs in fields that do not identify it.

        Raises:
          UserError: another field differs, in a group that is not among the `changes`.
        """
        there, here = flatten(self.config.to_dict()), flatten(config.to_dict())
        differing = [
            f"{name} is {there[name]!r} there, {here[name]!r} here"
            for name in sorted(here)
            if name not in NOT_PART_OF_IDENTITY
            and name.partition(".")[0] not in changes
            and there[name] != here[name]
        ]
        if differing:
            raise UserError(
                f"--workdir={self.path}: holds a run with another configuration: "
                f"{'; '.join(differing)}. Use another --workdir, or the same configuration"
            )
        return dataclasses.replace(self, config=config)

    def with_overrides(self, overrides: Mapping[str, Any]) -> "RunDirectory":
        """Returns the run with fields changed, by dotted path, as `with_config` does."""
        return self.with_config(configuration.from_dict(self.record["config"], overrides))


def config_to_record(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Converts a configuration to nested dictionaries, with absolute paths of the data."""
    recorded = config.copy_and_resolve_references()
    for name in DATA_PATH_FIELDS:
        group, _, field = name.partition(".")
        if path := recorded[group][field]:
            recorded[group][field] = str(local_path(name, path).absolute())
    return recorded.to_dict()


def environment_changes(run: RunDirectory, here: Mapping[str, Any]) -> list[str]:
    """Lists the entries of the environment, of the record `here`, that differ from a run's."""
    # An entry that an older record lacks is not known to differ.
    recorded = flatten({name: run.record[name] for name in _ENVIRONMENT if name in run.record})
    current = flatten(here)
    return [
        f"{name} was {value!r}, is {current.get(name)!r}"
        for name, value in recorded.items()
        if value != current.get(name)
    ]


def has_checkpoint(workdir: Path) -> bool:
    """Returns whether a run directory has a step's checkpoint, valid or damaged."""
    return any((workdir / "checkpoints").glob("[0-9d]*"))


def check_resumes(run: RunDirectory, config: ml_collections.ConfigDict) -> None:
    """Raises UserError unless training with this configuration resumes the run.

    The number of epochs may be larger if the learning rate does not depend on it.
    """
    same_length, before = config.copy_and_resolve_references(), run.config.train.num_epochs
    if config.train.learning_rate_schedule == "constant" and config.train.num_epochs > before:
        same_length.train.num_epochs = before
    run.with_config(same_length)


def check_workdir(workdir: Path) -> None:
    """Raises UserError unless `workdir` is a run directory, or one can be created there."""
    existing = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        problem = "is not writable" if existing.is_dir() else "is a file"
        raise UserError(f"--workdir={workdir}: {existing} {problem}; give another folder")
    if existing != workdir or (workdir / CONFIG_NAME).exists():
        return
    # A run may have been interrupted before it wrote `config.json`.
    names = sorted(path.name for path in workdir.iterdir() if path.name != _LOCK_NAME)
    if foreign := [name for name in names if not name.startswith(PARTIAL_PREFIX)]:
        raise UserError(
            f"--workdir={workdir}: is neither empty nor a run directory, it holds {foreign[0]}; "
            "give a new folder, or move that out of this one"
        )


def check_same_data(run: RunDirectory, sha256: str) -> None:
    """Raises UserError if a run was made from other data."""
    recorded = run.record.get("data_sha256")
    if recorded != sha256:
        raise UserError(
            f"{run.path / CONFIG_NAME}: the run was made from data with SHA-256 {recorded}, this "
            f"is {sha256}; give the same data, or another --workdir"
        )
