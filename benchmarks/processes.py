"""Contenders in processes of their own that take turns, so that drift affects all of them equally.

A contender's module in `contenders/` has `describe()` and `create(variant, config, arrays)`. It
makes an object with `run(request)`, which does the work, and perhaps `facts()`, about its model.
"""

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import last_error

# They share one GPU: none may reserve its memory.
_SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
_PAUSE_SECONDS = 0.5  # until the last contender's threads are asleep


class Worker:
    """A contender's process; it is left out, and named, if it is missing or has died."""

    def __init__(self, name: str, process: subprocess.Popen, log: Path):
        self.name, self.is_alive = name, True
        self._process, self._log = process, log
        self.facts = self._read() or {}
        if self.is_alive:
            print(f"started: {name}: {self.facts['description']}", flush=True)

    def leave_out(self, reason: str) -> None:
        """Removes it from the following turns, and prints the reason."""
        self.is_alive = False
        print(f"left out: {self.name}: {reason}", flush=True)

    def ask(self, request: Any) -> dict[str, Any] | None:
        """Has it do something; returns `seconds` and `result`, None if it died."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        if line := self._process.stdout.readline():
            return json.loads(line)
        reason = last_error(self._log.read_text())
        self.leave_out(reason or f"ended with code {self._process.wait()}")
        return None


@contextlib.contextmanager
def started(
    contenders: Sequence[tuple[str, str, str]],
    peers_python: str,
    config: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> Iterator[list[Worker]]:
    """Starts contenders, all at once, with the same arrays; yields those that start.

    Each is its name, a module of `contenders/` and a variant for its `create`.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **arrays)
        started = []
        for index, (name, module, variant) in enumerate(contenders):
            interpreter = sys.executable if module == "ours" else peers_python
            command = [interpreter, __file__, module, variant]
            log = Path(folder) / f"{index}.log"
            process = subprocess.Popen(
                [*command, json.dumps(config), str(inputs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(log.open("w")),
                text=True,
                env=os.environ | _SHARED_GPU,
            )
            started.append((name, stack.enter_context(process), log))
        workers = [worker for each in started if (worker := Worker(*each)).is_alive]
        if not workers:
            sys.exit("error: no contender is left")
        yield workers


def compare(
    workers: Sequence[Worker], request: Any, num_rounds: int, scale: float = 1.0
) -> Iterator[tuple[Worker, dict[str, Any], str, str]]:
    """Asks each worker once a round, another one first in each, after a round to compile programs.

    Yields each worker that is left, its answer of that round, its scaled seconds, and these as a
    multiple of the first worker's.
    """
    answers = {worker: [] for worker in workers}
    for index in range(num_rounds + 1):
        first = index % len(workers)
        for worker in (*workers[first:], *workers[:first]):
            if worker.is_alive:
                time.sleep(_PAUSE_SECONDS)
                if answer := worker.ask(request):
                    answers[worker].append(answer)
    reference = None
    for worker in (worker for worker in workers if worker.is_alive):
        times = [scale * answer["seconds"] for answer in answers[worker][1:]]
        reference = reference or statistics.median(times)
        ratio = f"{statistics.median(times) / reference:.2f}"
        text = f"{statistics.median(times):.3g} ({min(times):.3g} to {max(times):.3g})"
        yield worker, answers[worker][0], text, ratio


def parse_arguments(description: str, config: str, **numbers: int) -> argparse.Namespace:
    """Parses the arguments of a comparison; config and numbers are defaults."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--config", default=config, help="the model: a name in configs/")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the peers")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def serve(module: str, variant: str, config: str, inputs: str) -> None:
    """Serves one contender until standard input ends: a request and an answer are lines of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the libraries' own output goes to standard error
    contenders = importlib.import_module(f"contenders.{module}")
    contender = contenders.create(variant, json.loads(config), np.load(inputs))
    facts = {"description": contenders.describe(), **getattr(contender, "facts", dict)()}
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        result = contender.run(json.loads(line))
        answer = {"seconds": time.perf_counter() - start, "result": result}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
