"""Checkpoints through Orbax: the last three and the best by validation loss.

A checkpoint, numbered by the training step, holds all that a run needs to go on, in three items:
the parameters to evaluate, which can be restored by themselves; the rest of the train state; the
progress, that is, the rows of `metrics.csv` so far and the sums of an epoch that is not over. Each
has a checksum.
"""

import contextlib
import dataclasses
import errno
import gc
import glob
import inspect
import itertools
import json
import logging
import os
import re
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils.epath.gpath import PosixGPath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vae_jax.model.vae import Params
from vae_jax.runtime import devices
from vae_jax.runtime.errors import UserError
from vae_jax.training import metrics
from vae_jax.training.metrics import StepMetrics
from vae_jax.training.train_state import TrainState

NUM_LATEST = 3
_JSON = ocp.args.JsonRestore()
# What the system says of files that are lost; whatever else it says is no damage.
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run has come to, beside its train state.

    Attributes:
      rows: for each finished epoch, each replica's row.
      steps: metrics of each step of the epoch that is not over, `<float32>[steps, ...]`; None
        between epochs.
      seconds: what the steps of that epoch have taken.
      best: the row of the epoch with the lowest validation loss, averaged over the replicas; of
        all rows where it is not given.
    """

    rows: tuple[list[dict[str, float]], ...] = ()
    steps: StepMetrics | None = None
    seconds: float = 0.0
    best: dict[str, float] | None = None

    def __post_init__(self):
        if self.best is None:
            best = _best(metrics.mean_and_std(rows)[0] for rows in self.rows)
            object.__setattr__(self, "best", best)

    def after(self, rows: list[dict[str, float]]) -> "Progress":
        """Returns the progress when one more epoch is over, in a time that does not grow."""
        before = [self.best] if self.best else []
        best = _best([*before, metrics.mean_and_std(rows)[0]])
        return Progress((*self.rows, rows), best=best)


def _best(means: Iterable[dict[str, float]]) -> dict[str, float] | None:
    return min(means, key=lambda row: row["validation_loss"], default=None)


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """Computes a number that tells whether arrays are, bit for bit, what they were: `<uint32>[]`.

    The sum, modulo 2**32, of all words times odd weights that differ. That a single word has
    changed always shows; that many have goes unseen once in 2**32 times.
    """
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32).reshape(-1)
        weights = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
        total = total * 3 + jnp.sum(words * weights, dtype=jnp.uint32)
    return total


def _to_record(progress: Progress, checksums: dict[str, int]) -> dict[str, Any]:
    steps = progress.steps or StepMetrics({}, {})
    content = {
        "rows": progress.rows,
        "sums": {name: values.tolist() for name, values in steps.sums.items()},
        "numbers": {name: values.tolist() for name, values in steps.numbers.items()},
        "seconds": progress.seconds,
        "checksums": checksums,
    }
    return {"content": content, "crc32": _crc32(content)}


def _crc32(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _from_record(record: dict[str, Any]) -> tuple[Progress, dict[str, int]]:
    content = record["content"]
    if _crc32(content) != record["crc32"]:
        raise ValueError("its progress has another checksum")
    # What older versions did not measure is not in their checkpoints.
    sums, numbers = (
        {name: np.array(values, np.float32) for name, values in (content.get(key) or {}).items()}
        for key in ("sums", "numbers")
    )
    steps = StepMetrics(sums, numbers) if sums else None
    progress = Progress(tuple(content["rows"]), steps, content["seconds"])
    return progress, content["checksums"]


def _native_error_number(error: BaseException) -> int | None:
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


def _reason(error: Exception) -> str:
    """Shortens to a line what may be a page."""
    if number := _native_error_number(error):
        return os.strerror(number)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


class _DamagedCheckpoint(Exception):
    """A checkpoint that cannot be read, or not as it was written."""


class _LocalPath(PosixGPath):
    """A path as Orbax takes it, of which no character is a pattern's or an address's."""

    @property
    def _uri_scheme(self) -> None:
        """Says that /gs/run is no address; the class above takes it for gs://run."""
        return None

    def glob(self, pattern: str) -> Iterator["_LocalPath"]:
        """Yields what matches in this folder; the class above reads its name as a pattern too."""
        return (self / name for name in glob.glob(pattern, root_dir=self))


def _raise(error: OSError) -> None:
    raise error


def _system_problem(error: BaseException, folder: Path) -> str | None:
    """Returns what keeps files from being read, whatever they hold; None where nothing does.

    Args:
      error: of reading them.
      folder: where they are. Orbax takes one that may not be read for one that is not there.
    """
    chain: BaseException | None = error
    while chain:
        number = chain.errno if isinstance(chain, OSError) else _native_error_number(chain)
        if number and number not in _LOST:
            return os.strerror(number)
        if isinstance(chain, RuntimeError) and "start new thread" in str(chain):
            return str(chain)
        chain = chain.__cause__ or chain.__context__
    try:
        for parent, _, names in os.walk(folder, onerror=_raise):
            for name in names:
                with open(os.path.join(parent, name), "rb") as file:
                    file.read(1)
    except OSError as problem:
        return f"{problem.filename}: {problem.strerror}"
    return None


@contextlib.contextmanager
def _quiet_when_failing() -> Iterator[None]:
    """Silences what Orbax's threads have to say, one for each array, about a failed save or read.

    What is wrong is in the exception; theirs are about futures and a loop nobody waits for.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def quiet_hook(unraisable: Any) -> None:
        of_a_loop = isinstance(unraisable.exc_value, RuntimeError)
        if not of_a_loop and not inspect.iscoroutine(unraisable.object):
            hook(unraisable)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = quiet_hook
    try:
        yield
    except Exception:
        # The threads end later than the save or the read: nothing of this is taken back.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    sys.unraisablehook = hook


@contextlib.contextmanager
def _reading_may_fail(folder: Path) -> Iterator[None]:
    """Takes whatever goes wrong in reading a checkpoint for damage, but what the system refuses.

    Raises:
      _DamagedCheckpoint: what is there is not what was written.
      UserError: it cannot be read at all, whatever is there.
    """
    try:
        with _quiet_when_failing():
            yield
    except Exception as error:  # the readers' errors are of every kind
        if devices.is_out_of_memory(error):
            raise
        # Reads that were to follow and now never begin would be warned of, one by one, later.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            traceback.clear_frames(error.__traceback__)
            gc.collect()
        if problem := _system_problem(error, folder):
            raise UserError(
                f"{folder}: the checkpoint cannot be read ({problem}) and may be whole; it is left "
                "as it is: mend this, then give the same command again"
            ) from None
        raise _DamagedCheckpoint(_reason(error)) from None


class _KeepBest:
    """Orbax's preservation policy for one step, which the run's rows name."""

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tells whether each checkpoint is kept on this policy's account."""
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of one run, numbered by training step. Use as a context manager."""

    def __init__(self, workdir: Path, read_only: bool = False):
        """Opens `workdir/checkpoints`, which need not exist yet.

        Args:
          workdir: the run directory.
          read_only: leaves everything there as it is; another process may be training. This
            process alone then opens it, also where a run has several.
        """
        self._folder = workdir.absolute() / "checkpoints"
        self._best = _KeepBest()
        self._read_only = read_only
        self._was_read_back = False
        self._step_being_written = 0
        self._quiet = contextlib.ExitStack()  # until the save is over
        # The training step donates its buffers. An accelerator's are on the host when a save
        # returns, and the rest is done while it trains; on a CPU they would be written from where
        # they are, and by the cores that train.
        self._is_async = devices.by_platform(cpu=False, accelerator=True)
        keep = [preservation_policy.LatestN(NUM_LATEST), self._best]
        processes = {jax.process_index()} if read_only else None
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
            enable_async_checkpointing=self._is_async,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index() if read_only else 0, active_processes=processes
            ),
        )
        self._manager = ocp.CheckpointManager(
            _LocalPath(self._folder), options=options, item_names=("params", "state", "progress")
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        """Waits for the last save.

        Raises:
          UserError: it could not be written.
        """
        try:
            self._wait()
        finally:
            with contextlib.suppress(Exception):  # Orbax raises the error of that save once more
                self._manager.close()

    def save(self, step: int, state: TrainState, progress: Progress) -> None:
        """Saves the state after `step`; a checkpoint is there whole or not at all.

        The first is read again: of a run whose checkpoints cannot be read nothing would be left.
        One of the same step, of an epoch that was not yet validated, is replaced.

        Raises:
          UserError: it cannot be written, or not be read again; those before it are as they were.
            On an accelerator, where writing goes on after this returns, the next call says so.
        """
        params, rest = state.split()
        checksums = {
            name: int(devices.to_host(checksum(tree)))
            for name, tree in (("params", params), ("state", rest))
        }
        record = _to_record(progress, checksums)
        self._wait()
        self._step_being_written = step
        best = progress.best
        self._best.step = int(best["step"]) if best else None
        with self._writing(), contextlib.ExitStack() as quiet:
            quiet.enter_context(_quiet_when_failing())
            if not self._folder.is_dir():
                raise FileNotFoundError("the folder is gone")
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    state=ocp.args.StandardSave(rest),
                    progress=ocp.args.JsonSave(record),
                ),
            )
            self._quiet = quiet.pop_all()
        if not (self._is_async and self._was_read_back):
            self._wait()
        if not self._was_read_back:
            self._read_back(step, {"params": params, "state": rest})
            self._was_read_back = True

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns whatever goes wrong in writing a checkpoint into a UserError that names it."""
        try:
            yield
        except Exception as error:
            raise UserError(
                f"{self._folder}: the checkpoint of step {self._step_being_written} cannot be "
                f"written ({_reason(error)}); those before it are kept: mend this, then give the "
                "same command again"
            ) from error

    def _wait(self) -> None:
        """Waits until the last save is over, which on an accelerator goes on after `save`."""
        with self._writing(), self._quiet:
            self._manager.wait_until_finished()

    def _read_back(self, step: int, saved: dict[str, Any]) -> None:
        """Reads what was just saved: what keeps one checkpoint from being read keeps all.

        Raises:
          UserError: it is not what was saved.
        """
        sharding = jax.tree.leaves(saved["params"])[0].sharding
        try:
            for name, tree in saved.items():  # one at a time: memory holds them twice meanwhile
                self._read(step, {name: tree}, sharding)
        except _DamagedCheckpoint as error:
            raise UserError(
                f"{self._folder}: the checkpoint of step {step} was written, but cannot be read "
                f"again ({error}); train in a --workdir elsewhere, as on another disk"
            ) from error

    def restore_params(self, step: int, like: Params, sharding: jax.sharding.Sharding) -> Params:
        """Restores the parameters to evaluate that were saved after `step`.

        Args:
          step: one that was saved.
          like: their shapes and types.
          sharding: where they go.

        Raises:
          UserError: the checkpoint is damaged, or the system lets it not be read.
        """
        try:
            return self._read(step, {"params": like}, sharding)[0]["params"]
        except _DamagedCheckpoint as error:
            raise UserError(
                f"{self._folder / str(step)}: the checkpoint is damaged ({error}); the others may "
                "be whole: move that folder away to do without it"
            ) from error

    def restore_latest(
        self, like: TrainState, sharding: jax.sharding.Sharding
    ) -> tuple[TrainState, Progress] | None:
        """Restores the newest checkpoint that is whole; None where there is none at all.

        A damaged one is said to be so on standard error, and renamed.

        Args:
          like: shapes and types of the state.
          sharding: where its arrays go.

        Raises:
          UserError: there are checkpoints, and all of them are damaged, or the system lets one
            not be read.
        """
        params, rest = like.split()

        def read(step: int) -> tuple[TrainState, Progress]:
            restored, progress = self._read(step, {"params": params, "state": rest}, sharding)
            return restored["state"].join(restored["params"]), progress

        return self._latest_valid(read, self._rename_damaged)

    def latest_progress(self) -> Progress | None:
        """Reads the progress of the newest whole checkpoint; None where there is none at all.

        Raises:
          UserError: there are checkpoints, and all of them are damaged, or the system lets one
            not be read.
        """
        return self._latest_valid(self._read_progress, self._leave_damaged)

    def _latest_valid(
        self, read: Callable[[int], Any], quarantine: Callable[[int], Path]
    ) -> Any | None:
        """Reads the newest checkpoint that can be read; the damaged ones before it are said."""
        saved = sorted(self._manager.all_steps(), reverse=True)
        for step in saved:
            restored, problem = None, "another process found it so"
            try:
                restored = read(step)
            except _DamagedCheckpoint as error:
                problem = str(error)
            missing = restored is None
            if not (missing if self._read_only else devices.any_process_true(missing)):
                return restored
            where = quarantine(step)
            if devices.is_first_process():
                print(
                    f"the checkpoint of step {step} is damaged ({problem}); the one before it is "
                    f"used, the damaged one is {where}",
                    file=sys.stderr,
                )
        if saved:
            raise UserError(
                f"{self._folder}: none of the checkpoints can be read; put copies back, or begin "
                "again in another --workdir"
            )
        return None

    def _leave_damaged(self, step: int) -> Path:
        return self._folder / str(step)

    def _rename_damaged(self, step: int) -> Path:
        """Takes a damaged checkpoint out of the way of a new one of that step."""
        names = (f"damaged_{step}_{count}" for count in itertools.count(1))
        path = next(path for name in names if not (path := self._folder / name).exists())
        devices.barrier(f"named {path}")
        if devices.is_first_process():
            os.rename(self._folder / str(step), path)
        devices.barrier(f"renamed {path}")
        self._manager.reload()
        return path

    def _read(
        self, step: int, like: dict[str, Any], sharding: jax.sharding.Sharding
    ) -> tuple[dict[str, Any], Progress]:
        """Reads the progress and some other items, all checked."""
        items = {
            name: ocp.args.StandardRestore(
                jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                    tree,
                )
            )
            for name, tree in like.items()
        }
        with _reading_may_fail(self._folder / str(step)):
            restored = self._manager.restore(step, args=ocp.args.Composite(**items, progress=_JSON))
            progress, checksums = _from_record(restored.progress)
            for name in like:
                if int(devices.to_host(checksum(restored[name]))) != checksums[name]:
                    raise ValueError(f"its {name} has another checksum")
            return {name: restored[name] for name in like}, progress

    def _read_progress(self, step: int) -> Progress:
        return self._read(step, {}, devices.single_device())[1]
