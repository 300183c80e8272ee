"""Parameters alone, as a `weights.safetensors` file: all that a trained model needs beside its
configuration, readable by other programs.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from vae_jax.model.vae import Params
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_atomically

WEIGHTS_NAME = "weights.safetensors"
_CHECKSUM = "crc32"


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Computes the CRC-32 of all values, in the order of their names."""
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), crc)
    return str(crc)


def write_weights(path: Path, params: Params, metadata: Mapping[str, str]) -> None:
    """Writes parameters under their names in Flax, joined by dots, whole or not at all.

    Args:
      path: the file.
      params: the model's parameters.
      metadata: whatever is to be known of them.
    """
    flat = traverse_util.flatten_dict(jax.device_get(params), sep=".")
    arrays = {str(name): np.ascontiguousarray(array) for name, array in flat.items()}
    record = {**metadata, _CHECKSUM: _checksum(arrays)}
    write_atomically(path, safetensors.numpy.save(arrays, record))


def read_weights(path: Path, like: Params) -> tuple[Params, dict[str, str]]:
    """Reads parameters and what is to be known of them.

    Args:
      path: the file.
      like: their shapes and types; what is stored in half precision is converted.

    Returns:
      The parameters, in NumPy arrays, and the metadata.

    Raises:
      UserError: the file is not there, damaged, or of another model.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # the library's own, which is no subclass of anything
        raise UserError(f"{path}: is no safetensors file, or damaged ({error})") from error
    if metadata.get(_CHECKSUM, _checksum(arrays)) != _checksum(arrays):
        raise UserError(f"{path}: is damaged: its values have another checksum")
    expected: dict[str, Any] = dict(traverse_util.flatten_dict(like, sep="."))
    shapes = {name: leaf.shape for name, leaf in expected.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if found != shapes:
        differing = sorted(
            name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)
        )
        name = differing[0]
        raise UserError(
            f"{path}: is of another model: {name} is {found.get(name, 'not there')}, must be "
            f"{shapes.get(name, 'not there')}"
            + (f", and {len(differing) - 1} others differ" if differing[1:] else "")
        )
    arrays = {name: arrays[name].astype(leaf.dtype) for name, leaf in expected.items()}
    return traverse_util.unflatten_dict(arrays, sep="."), metadata
