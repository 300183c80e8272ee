"""The weights' file: half precision, named arrays, a checksum."""

import hashlib
import io
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from vae_jax.model.vae import Params
from vae_jax.runtime.errors import UserError

WEIGHTS_PATH = Path(__file__).parent / "weights.npz"
# Of the file that `python -m vae_jax.evaluation.digit_classifier.train` wrote.
WEIGHTS_SHA256 = "e4520570e41fc72ddaba1e61e8c9275f23d57d5abab2071d097972cad5fbe502"


def to_bytes(params: Params) -> bytes:
    """Writes the parameters as a file's content, rounded to half precision."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(leaf, np.float16) for name, leaf in flat.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def from_bytes(content: bytes) -> Params:
    """Reads the parameters from a file's content, as single precision."""
    with np.load(io.BytesIO(content)) as arrays:
        flat = {name: arrays[name].astype(np.float32) for name in arrays.files}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def load_weights() -> Params:
    """Loads the parameters that come with the package.

    Raises:
      UserError: the file is missing, or is not the one that belongs to this version.
    """
    try:
        content = WEIGHTS_PATH.read_bytes()
    except OSError as error:
        raise UserError(f"{WEIGHTS_PATH}: cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise UserError(
            f"{WEIGHTS_PATH}: has SHA-256 {digest}, should have {WEIGHTS_SHA256}; "
            "take the file from the repository again"
        )
    return from_bytes(content)
