"""Rewrites run directories as versions wrote them whose checkpoints were Orbax's.

Their steps had no numbers, and their models no labels.
"""

import json
import logging
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from vae_jax.runtime.files import read_json, write_json
from vae_jax.training import metrics, steps
from vae_jax.training.checkpoints import Checkpoints, Progress
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import train_settings
from vae_jax.training.train_state import TrainState


def _checksum(tree: Any) -> int:
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        words = jax.lax.bitcast_convert_type(jnp.asarray(leaf), jnp.uint32).reshape(-1)
        weights = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
        total = total * 3 + jnp.sum(words * weights, dtype=jnp.uint32)
    return int(total)


def _without_numbers(row: dict[str, Any]) -> dict[str, Any]:
    names = (*metrics.COLUMNS, metrics.SKIPPED_COLUMN)
    return {name: value for name, value in row.items() if name in names}


def write_checkpoint(workdir: Path, step: int, state: TrainState, progress: Progress) -> None:
    """Writes a checkpoint with Orbax; adds no file of this version."""
    if state.average is None:
        params, rest = state.params, state.replace(params={})
    else:
        params = state.average.params
        rest = state.replace(average=state.average.replace(params={}))
    content = {
        "rows": [[_without_numbers(row) for row in rows] for rows in progress.rows],
        "sums": progress.steps and {n: v.tolist() for n, v in progress.steps.sums.items()},
        "seconds": progress.seconds,
        "checksums": {"params": _checksum(params), "state": _checksum(rest)},
    }
    crc = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(workdir.absolute() / "checkpoints", options=options) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(jax.tree.map(jnp.asarray, params)),
                state=ocp.args.StandardSave(jax.tree.map(jnp.asarray, rest)),
                progress=ocp.args.JsonSave({"content": content, "crc32": crc}),
            ),
        )


def rewrite_run(workdir: Path) -> None:
    """Rewrites the record and the newest checkpoint; deletes the others."""
    run = RunDirectory.open(workdir)
    like = steps.abstract_state(train_settings(run.config, run.spec, steps_per_epoch=1))
    restored = Checkpoints(workdir).restore_latest(like)
    assert restored
    shutil.rmtree(workdir / "checkpoints")
    write_checkpoint(workdir, int(restored[0].step), *restored)
    record = read_json(workdir / "config.json")
    del record["class_names"], record["config"]["condition"]
    del record["config"]["decoder"]["kind"], record["config"]["data"]["levels"]
    write_json(workdir / "config.json", record)
