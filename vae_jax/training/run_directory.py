"""The folder a run leaves: what is in it, who may write there, files never half-written."""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from vae_jax.runtime.errors import UserError

_RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

# Where the data lies is no part of what a run is: its SHA-256 is.
LOCATION_FIELDS = ("data.data_dir", "data.manual_dir")
# Nor is what is done with it when it is trained.
FREE_FIELDS = (*LOCATION_FIELDS, "evaluate.num_importance_samples")

_LOCK_NAME = ".lock"
_PARTIAL_PREFIX = ".partial."

# Fields that run directories of earlier versions lack, and what those runs did.
_ADDED_FIELDS = {
    "decoder.activation": "relu",
    "decoder.residual_blocks": (),
    "encoder.activation": "relu",
    "encoder.bidirectional": False,
    "encoder.head_sizes": (),
    "encoder.mean_activation": "none",
    "encoder.num_layers": 1,
    "evaluate.num_importance_samples": 100,
    "initial_output": "zeros",
    "initialization": "flax",
    "loss.elbo_epochs": 0,
    "loss.free_bits": 0.0,
    "loss.kl_warm_up_steps": 0,
    "loss.num_importance_samples": 1,
    "train.ema_decay": 0.0,
    "train.learning_rate_schedule": "constant",
    "train.max_gradient_norm": 0.0,
    "train.weight_decay": 0.0,
}

# Far beyond what this package writes, and far below what recursive functions can follow.
_MAX_DEPTH = 20


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is, at any moment, either the old one or the new one, whole."""
    if isinstance(content, str):
        content = content.encode()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL_PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes the run directory, and keeps other processes from training there.

    The lock ends with the process, whatever ends it. What an earlier one left half-written
    is removed.

    Raises:
      UserError: the folder cannot be made, or another process is training there.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / _LOCK_NAME).open("a+")
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot be written to ({error.strerror}); give another folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"--workdir={workdir}: {file.read() or 'another process'} is training there; wait "
                "for it, stop it, or give another folder"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        for partial in workdir.rglob(f"{_PARTIAL_PREFIX}*"):
            partial.unlink(missing_ok=True)
        yield


def replica_folders(workdir: Path, seed: int, num_replicas: int) -> list[Path]:
    """Where each replica's metrics and figures go: the run directory itself if there is one."""
    if num_replicas == 1:
        return [workdir]
    return [workdir / "replicas" / f"seed_{seed + index}" for index in range(num_replicas)]


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: the file is missing, is not JSON, or is nested too deeply to be of this package.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); the file is damaged") from error
    if _is_deeper_than(_MAX_DEPTH, value):
        raise UserError(f"{path}: is nested more than {_MAX_DEPTH} deep; the file is damaged")
    return value


def _is_deeper_than(depth: int, value: Any) -> bool:
    layer = [value]
    for _ in range(depth):
        holders = (item for item in layer if isinstance(item, dict | list))
        layer = [
            item
            for holder in holders
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
    return bool(layer)


def held_record(workdir: Path) -> dict[str, Any]:
    """What the `config.json` of the run in `workdir` holds: configuration and provenance.

    Fields newer than the run have the value that gives what the run did.

    Raises:
      UserError: there is no run, or its `config.json` is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(
            f"--workdir={workdir}: holds no run (no config.json); train one there first"
        )
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise UserError(f"{path}: has no 'config' entry; the file is damaged")
    config = record["config"]
    for field, value in _ADDED_FIELDS.items():
        group, _, name = field.rpartition(".")
        fields = config.setdefault(group, {}) if group else config
        if isinstance(fields, dict):
            fields.setdefault(name, value)
    return record


def held_config(workdir: Path) -> dict[str, Any]:
    """The configuration in the `config.json` of `workdir`, as nested dictionaries.

    Raises:
      UserError: there is no run, or its `config.json` is damaged.
    """
    return held_record(workdir)["config"]


def git_commit(folder: Path) -> str | None:
    """The commit the code was at, `-dirty` behind it if it was changed; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def provenance(
    device_kind: str, device_count: int, data_sha256: str, binarization_seed: int | None
) -> dict[str, Any]:
    """What beside the configuration decides a run's numbers.

    Args:
      device_kind: what the run computes on, as JAX names it.
      device_count: on how many of them.
      data_sha256: digest of the images and labels.
      binarization_seed: of the validation and test pixels, None for grey pixels.
    """
    return {
        "versions": {name: metadata.version(name) for name in _RECORDED_PACKAGES},
        "device_kind": device_kind,
        "device_count": device_count,
        "git_commit": git_commit(Path(__file__).parent),
        "data_sha256": data_sha256,
        "evaluation_binarization_seed": binarization_seed,
    }


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, its keys joined by dots; lists become tuples."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat


def check_same_config(workdir: Path, config: dict[str, Any]) -> None:
    """Raises UserError where `workdir` holds a run of another configuration."""
    held, wanted = flatten(held_config(workdir)), flatten(config)
    differing = [
        f"{name} is {held.get(name)!r} there, {wanted.get(name)!r} here"
        for name in sorted(held.keys() | wanted.keys())
        if name not in FREE_FIELDS and held.get(name) != wanted.get(name)
    ]
    if differing:
        raise UserError(
            f"--workdir={workdir}: holds a run with another configuration: "
            f"{'; '.join(differing)}. Use another --workdir, or the same configuration"
        )


def _is_not_ours(path: Path) -> bool:
    """Whether a file is not one that a run leaves which ended before its `config.json`."""
    return path.name != _LOCK_NAME and not path.name.startswith(_PARTIAL_PREFIX)


def check_workdir(workdir: Path, config: dict[str, Any]) -> None:
    """Raises UserError unless a run of this configuration can begin or go on in `workdir`."""
    nearest = workdir
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"--workdir={workdir}: {nearest} is a file; give a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--workdir={workdir}: {nearest} is not writable; give another folder")
    if (workdir / "config.json").exists():
        check_same_config(workdir, config)
    elif nearest == workdir and any(map(_is_not_ours, workdir.iterdir())):
        raise UserError(
            f"--workdir={workdir}: is neither empty nor a run directory; give a new folder"
        )


def check_same_data(workdir: Path, sha256: str) -> None:
    """Raises UserError where the run in `workdir` was made from other data."""
    held = held_record(workdir).get("data_sha256")
    if held != sha256:
        raise UserError(
            f"{workdir / 'config.json'}: the run was made from data with SHA-256 {held}, this is "
            f"{sha256}; give the same data, or another --workdir"
        )
