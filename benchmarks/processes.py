"""Contenders in processes of their own that take turns, so that drift is unkind to all alike."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, SHARED_GPU, last_error

_PAUSE_SECONDS = 0.5  # until the last contender's threads are asleep


@dataclass(frozen=True)
class Contender:
    """What takes part.

    Attributes:
      name: in the tables.
      module: of `contenders/`.
      variant: given to it.
      is_peer: whether it is run by the peers' interpreter.
    """

    name: str
    module: str
    variant: str
    is_peer: bool = False


class Worker:
    """A contender's process.

    Attributes:
      name: of the contender.
      is_alive: whether it takes part: it is left out, and named, once it is missing or dead.
      facts: its first answer.
    """

    def __init__(self, name: str, process: subprocess.Popen, log: Path):
        self.name = name
        self.is_alive = True
        self._process, self._log = process, log
        self.facts = self._read() or {}
        if "missing" in self.facts:
            self.leave_out(f"{self.facts['missing']} is not installed")
        elif self.is_alive:
            print(f"started: {name}: {self.facts['version']}, {self.facts['device']}", flush=True)

    def leave_out(self, reason: str) -> None:
        """Takes it out of what follows, and says why."""
        self.is_alive = False
        print(f"left out: {self.name}: {reason}", flush=True)

    def ask(self, request: Any) -> dict[str, Any] | None:
        """Has it do something; returns `seconds` and `result`, None if it died."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        reason = last_error(self._log.read_text())
        self.leave_out(reason or f"ended with code {self._process.wait()}")
        return None


@contextlib.contextmanager
def started(
    contenders: Sequence[Contender],
    peers_python: str,
    config: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> Iterator[list[Worker]]:
    """Starts contenders, all at once; those that start are given back.

    Args:
      contenders: who takes part.
      peers_python: the interpreter of the peers.
      config: of the model.
      arrays: given to each.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **arrays)
        processes = []
        for index, contender in enumerate(contenders):
            interpreter = peers_python if contender.is_peer else sys.executable
            command = [interpreter, str(ROOT / "benchmarks" / "worker.py"), contender.module]
            command += [contender.variant, json.dumps(config), str(inputs)]
            log = Path(folder) / f"{index}.log"
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stack.enter_context(log.open("w")),
                    text=True,
                    env=os.environ | SHARED_GPU,
                )
            )
            processes.append((contender.name, process, log))
        workers = [Worker(*arguments) for arguments in processes]
        yield [worker for worker in workers if worker.is_alive]


def in_turns(workers: Sequence[Worker], num_rounds: int) -> Iterator[Worker]:
    """Yields each worker that is alive once a round; another one begins each round."""
    for index in range(num_rounds):
        first = index % len(workers)
        for worker in (*workers[first:], *workers[:first]):
            if worker.is_alive:
                time.sleep(_PAUSE_SECONDS)
                yield worker
