"""Named arrays with a checksum as safetensors; a model's parameters, readable by other programs."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from vae_jax.model.vae import Params
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_atomically

WEIGHTS_NAME = "weights.safetensors"
_CHECKSUM = "crc32"


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a tree on the host by their names in the tree, joined by dots."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.asarray(leaf, order="C") for path, leaf in leaves}


def fill(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Returns a tree of named arrays, converted to the types of `like`; ValueError if they differ.

    Names and shapes must be those of `like`.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    expected = {_name(path): leaf for path, leaf in leaves}
    shapes, wanted = ({(n, a.shape) for n, a in each.items()} for each in (arrays, expected))
    if differing := shapes ^ wanted:
        raise ValueError(f"is of another model: {min(differing)[0]} differs")
    values = [arrays[name].astype(leaf.dtype, copy=False) for name, leaf in expected.items()]
    return jax.tree_util.tree_unflatten(structure, values)


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Computes the CRC-32 of all values, in the order of their names."""
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(arrays[name].tobytes(), crc)
    return str(crc)


def to_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Encodes named arrays as safetensors, with a checksum."""
    return safetensors.numpy.save({**arrays}, {**metadata, _CHECKSUM: checksum(arrays)})


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays and the metadata of a safetensors file.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"is not a safetensors file, or damaged ({error})") from error
    # Files of other programs have no checksum.
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != checksum(arrays):
        raise ValueError("is damaged: its values have another checksum")
    return arrays, metadata


def write_weights(path: Path, params: Params, metadata: Mapping[str, str]) -> None:
    """Writes parameters atomically, under their names in Flax."""
    write_atomically(path, to_bytes(named_arrays(jax.device_get(params)), metadata))


def read_weights(path: Path, like: Params) -> tuple[Params, dict[str, str]]:
    """Reads parameters, as NumPy arrays of the types of `like`, and the file's metadata.

    Raises:
      UserError: the file is missing, damaged, or belongs to another model.
    """
    try:
        arrays, metadata = read_arrays(path)
        return fill(like, arrays), metadata
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
