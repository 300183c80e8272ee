"""Checkpoints of a run: one safetensors file each, the newest three and the best epoch's.

A checkpoint, numbered by the training step, holds the train state, the rows of `metrics.csv` so far
and the metrics of the steps of an unfinished epoch, with a checksum over all of them. If the best
epoch ended since the checkpoint before, it also holds the best parameters: the first checkpoint
from the best epoch on always has them. Older versions wrote folders with Orbax.
"""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from vae_jax.model.vae import Params
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError, describe
from vae_jax.runtime.files import write_atomically
from vae_jax.training.metrics import StepMetrics
from vae_jax.training.train_state import TrainState
from vae_jax.training.weights import fill, named_arrays, read_arrays, to_bytes

NUM_LATEST = 3
_SUFFIX = ".safetensors"

Content = TypeVar("Content")


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run, beside its train state."""

    rows: tuple[list[dict[str, float]], ...] = ()  # for each finished epoch, each replica's row
    steps: StepMetrics | None = None  # of an unfinished epoch, `<float32>[steps, ...]`
    seconds: float = 0.0  # the time that these steps took

    @property
    def best(self) -> dict[str, float] | None:
        """The first replica's row of the epoch with the lowest mean validation loss, if any."""
        epochs = ((sum(row["validation_loss"] for row in rows), rows[0]) for rows in self.rows)
        return min(epochs, key=lambda epoch: epoch[0], default=(0.0, None))[1]


def _with_raw_key(state: TrainState) -> TrainState:
    return dataclasses.replace(state, root_key=jax.random.key_data(state.root_key))


def _select(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}


def _read(path: Path) -> dict[str, np.ndarray]:
    """Reads a checkpoint, whichever version wrote it; raises ValueError if it is damaged."""
    arrays = _read_folder(path) if path.is_dir() else read_arrays(path)[0]
    if "progress" not in arrays:
        raise ValueError("is damaged: it has no progress")
    return arrays


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Reads a checkpoint of Orbax as the arrays of a file; ValueError if it cannot be read.

    Its items are `params`, the parameters to evaluate; `state`, the rest of the train state; and
    `progress`, JSON.
    """
    import orbax.checkpoint as ocp  # not at import: it is slow, and seldom needed

    def restore(item: Path) -> Any:
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(item).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return handler.restore(item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))

    try:
        content = json.loads((folder / "progress" / "metadata").read_text())["content"]
        state, params = restore(folder / "state"), restore(folder / "params")
        record = json.dumps({"rows": content["rows"], "seconds": content["seconds"]})
    except Exception as error:  # the library's errors are of every kind
        raise ValueError(f"is damaged ({describe(error)[:200]})") from error
    owner = state["average"] if state.get("average") else state
    owner["params"] = params
    steps = {
        kind: {name: np.array(values, np.float32) for name, values in content[kind].items()}
        for kind in ("sums", "numbers")  # older versions measured fewer things
        if content.get(kind)
    }
    arrays = named_arrays({"state": state, "steps": steps})
    return arrays | {"progress": np.frombuffer(record.encode(), np.uint8)}


def _to_progress(arrays: Mapping[str, np.ndarray]) -> Progress:
    record = json.loads(arrays["progress"].tobytes())
    sums, numbers = (_select(arrays, f"steps.{name}.") for name in ("sums", "numbers"))
    steps = StepMetrics(sums, numbers) if sums else None
    return Progress(tuple(record["rows"]), steps, record["seconds"])


class Checkpoints:
    """The checkpoints of one run, in `checkpoints/` of its run directory."""

    def __init__(self, workdir: Path):
        self._folder = workdir / "checkpoints"

    def _paths(self) -> list[Path]:
        """Lists the checkpoints, newest first."""
        paths = self._folder.glob("[0-9]*")
        return sorted(paths, key=lambda path: (int(path.stem), path.suffix), reverse=True)

    def _path_of_best(self, step: int) -> Path:
        """Returns the checkpoint that has the parameters of the best epoch, which `step` ended."""
        since = (path for path in self._paths() if int(path.stem) >= step)
        return min(since, key=lambda path: int(path.stem), default=self._folder / str(step))

    def save(
        self, step: int, state: TrainState, progress: Progress, best: Params | None = None
    ) -> None:
        """Saves the state after `step` steps atomically; deletes checkpoints no longer needed.

        `best` is the best epoch's parameters to evaluate, if it ended after the last checkpoint and
        before `step`.

        Raises:
          OSError: it cannot be written; the others are unchanged.
        """
        host = devices.to_host({"state": _with_raw_key(state), "best": best})
        arrays = named_arrays({**host, "steps": progress.steps})
        record = json.dumps({"rows": progress.rows, "seconds": progress.seconds})
        arrays["progress"] = np.frombuffer(record.encode(), np.uint8)
        if not devices.is_first_process():
            return
        self._folder.mkdir(exist_ok=True)
        write_atomically(self._folder / f"{step}{_SUFFIX}", to_bytes(arrays, {}))
        paths = self._paths()
        steps = sorted({int(path.stem) for path in paths})
        best_path = self._path_of_best(int((progress.best or {"step": step})["step"]))
        keep = {*steps[-NUM_LATEST:], int(best_path.stem)}
        for path in paths:
            if int(path.stem) not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def restore_params(self, step: int, like: Params) -> Params:
        """Restores the parameters to evaluate of the best epoch, which `step` ended.

        They are NumPy arrays of the shapes and types of `like`.

        Raises:
          UserError: the checkpoint is damaged, or belongs to another model.
        """
        path = self._path_of_best(step)
        try:
            arrays = _read(path)
            if int(path.stem) > step:
                return fill(like, _select(arrays, "best."))
            average = _select(arrays, "state.average.params.")
            return fill(like, average or _select(arrays, "state.params."))
        except ValueError as error:
            raise UserError(f"{path}: the checkpoint {error}; move it away") from error

    def restore_latest(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Restores the newest valid checkpoint, in NumPy arrays; None if there are none.

        A damaged one is reported on standard error and renamed; `like` has the state's shapes and
        types.

        Raises:
          UserError: all checkpoints are damaged.
        """
        like = jax.eval_shape(_with_raw_key, like)

        def convert(arrays: Mapping[str, np.ndarray]) -> tuple[TrainState, Progress]:
            state = fill(like, _select(arrays, "state."))
            key_data = devices.to_device(state.root_key)
            root_key = jax.random.wrap_key_data(key_data, impl="threefry2x32")
            return dataclasses.replace(state, root_key=root_key), _to_progress(arrays)

        return self._latest_valid(convert, renames=True)

    def latest_progress(self) -> Progress | None:
        """Reads the progress of the newest valid checkpoint; raises as `restore_latest` does."""
        return self._latest_valid(_to_progress, renames=False)

    def _latest_valid(
        self, convert: Callable[[Mapping[str, np.ndarray]], Content], renames: bool
    ) -> Content | None:
        """Reads the newest valid checkpoint; `renames` damaged ones, in all processes together."""
        for path in (paths := self._paths()):
            try:
                return convert(_read(path))
            except ValueError as error:
                if devices.is_first_process():
                    problem = f"the checkpoint of step {path.stem} {error}"
                    print(f"{problem}; the one before it is used", file=sys.stderr)
            if renames:
                devices.barrier(f"{path} is damaged")  # every process has read it
                if devices.is_first_process():
                    path.rename(path.with_name(f"damaged_{path.name}"))
                devices.barrier(f"renamed {path}")
        if paths:
            raise UserError(f"{self._folder}: none of the checkpoints can be read; put copies back")
        return None
