"""Reading the checkpoints of earlier versions, which Orbax wrote: a folder for each step.

Its items are `params`, the parameters to evaluate; `state`, the rest of the train state; and
`progress`, JSON with a checksum of each item.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.runtime.errors import describe
from vae_jax.training.weights import named_arrays

# The order in which the checksum of a train state counts its fields.
_FIELDS = ("step", "params", "average", "opt_state", "root_key")


def _restore(folder: Path) -> Any:
    """Restores an item as nested dictionaries and lists of NumPy arrays."""
    import orbax.checkpoint as ocp  # not at import: it is slow, and seldom needed

    handler = ocp.PyTreeCheckpointHandler()
    tree = handler.metadata(folder).tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _checksum(tree: Any) -> int:
    """Computes the sum of all words times odd weights, modulo 2**32."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        words = np.ascontiguousarray(leaf).reshape(-1).view(np.uint32)
        weights = 2 * np.arange(words.size, dtype=np.uint32) + 1
        total = (total * 3 + int((words * weights).sum(dtype=np.uint32))) % 2**32
    return total


def read(folder: Path) -> dict[str, np.ndarray]:
    """Reads a checkpoint as named arrays, as now written; raises ValueError if it is damaged."""
    try:
        record = json.loads((folder / "progress" / "metadata").read_text())
        content = record["content"]
        params, state = (_restore(folder / name) for name in ("params", "state"))
    except Exception as error:  # the library's errors are of every kind
        raise ValueError(f"is damaged ({describe(error)[:200]})") from error
    crc = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    ordered = [state.get(name) for name in _FIELDS]
    checksums = {"params": _checksum(params), "state": _checksum(ordered)}
    if crc != record["crc32"] or checksums != content["checksums"]:
        raise ValueError("is damaged: its values have another checksum")
    owner = state["average"] if state.get("average") else state
    owner["params"] = params
    steps = {
        kind: {name: np.array(values, np.float32) for name, values in content[kind].items()}
        for kind in ("sums", "numbers")  # older versions measured fewer things
        if content.get(kind)
    }
    progress = json.dumps({"rows": content["rows"], "seconds": content["seconds"]})
    arrays = named_arrays({"state": state, "steps": steps})
    return arrays | {"progress": np.frombuffer(progress.encode(), np.uint8)}
