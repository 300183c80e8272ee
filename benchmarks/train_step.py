"""One training step: this project, plain Flax, PyTorch and Keras side by side in one run.

  python benchmarks/train_step.py --peers_python=.venv-peers/bin/python

Each contender trains the same model on the same images in a process of its own; they take
turns, so that a machine whose speed drifts is unkind to all alike. A contender whose library
is not there is left out and named. The two rows "at peak" are measured in the same turns:
a step's arithmetic as square matrix products, and the parameters' memory traffic in Adam.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common import ROOT, describe_machine, load_config, print_table, spread

from vae_jax import datasets

# Each contender's name, module and variant, and whether the peers' environment has it.
CONTENDERS = (
    ("ours, compiled epoch", "ours", "compiled epoch", False),
    ("ours, a call a step", "ours", "single calls", False),
    ("plain Flax, a call a step", "plain_flax", "single calls", False),
    ("PyTorch, eager", "pytorch", "eager", True),
    ("PyTorch, eager, fused Adam", "pytorch", "eager, fused Adam", True),
    ("PyTorch, compiled, fused Adam", "pytorch", "compiled, fused Adam", True),
    ("Keras on TensorFlow, graph", "keras_tensorflow", "graph", True),
    ("Keras on TensorFlow, XLA", "keras_tensorflow", "XLA", True),
    ("arithmetic at peak", "floor", "arithmetic", False),
    ("Adam's memory traffic at peak", "floor", "memory", False),
)
# Several processes share one GPU: none may take its memory for itself.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
_PAUSE_SECONDS = 0.5  # until the last contender's threads are asleep


@dataclass
class Worker:
    """A contender's process.

    Attributes:
      name: of the contender.
      process: answers on its standard output.
      facts: its first answer.
      times: milliseconds a step, one for each round.
    """

    name: str
    process: subprocess.Popen
    facts: dict
    times: list[float] = field(default_factory=list)

    def run(self, num_steps: int) -> float:
        """Lets it take steps; returns milliseconds a step."""
        print(num_steps, file=self.process.stdin, flush=True)
        return 1000 * json.loads(self.process.stdout.readline())["seconds"] / num_steps


@contextlib.contextmanager
def started(name: str, command: list[str], log: Path) -> Iterator[Worker | None]:
    """Starts a contender; None where its library is missing."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | _ENVIRONMENT,
        ) as process,
    ):
        line = process.stdout.readline()
        if not line:
            process.stdin.close()
            sys.exit(f"error: {name} died: {log.read_text().strip().splitlines()[-1]}")
        facts = json.loads(line)
        if "missing" in facts:
            print(f"left out: {name}: {facts['missing']} is not installed", flush=True)
            yield None
        else:
            print(f"started: {name}: {facts['version']}, {facts['device']}", flush=True)
            yield Worker(name, process, facts)
        process.stdin.close()


def check_same_model(workers: list[Worker], hidden_size: int) -> None:
    """Exits unless all contenders have the model's size and its loss at the start."""
    first = workers[0].facts
    for worker in workers:
        facts = worker.facts
        # PyTorch's LSTM has its four biases twice.
        extra = facts["num_parameters"] - first["num_parameters"]
        if extra not in (0, 4 * hidden_size):
            sys.exit(f"error: {worker.name} has {extra} more parameters than {workers[0].name}")
        loss = facts["first_loss"]
        if not math.isnan(loss) and abs(loss - first["first_loss"]) > 0.01 * first["first_loss"]:
            sys.exit(f"error: {worker.name} begins at a loss of {loss}, not {first['first_loss']}")


def print_results(workers: list[Worker]) -> None:
    """Prints the table, each contender's time as a multiple of the first's."""
    reference = statistics.median(workers[0].times)
    rows = [
        (
            worker.name,
            spread(worker.times),
            f"{statistics.median(worker.times) / reference:.2f}",
            "" if math.isnan(worker.facts["first_loss"]) else f"{worker.facts['first_loss']:.1f}",
        )
        for worker in workers
    ]
    print()
    print_table(("", "ms a step: median (min to max)", "times ours", "first loss"), rows)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/optimized.py", help="the model")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    print(f"{describe_machine()}; {arguments.config}, batch {config.train.batch_size}", flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        images = Path(folder) / "images.npy"
        np.save(images, datasets.load("mnist_5k").train.images)
        workers = []
        for name, module, variant, is_peer in CONTENDERS:
            interpreter = arguments.peers_python if is_peer else sys.executable
            command = [interpreter, str(ROOT / "benchmarks" / "worker.py"), module, variant]
            command += [json.dumps(config.to_dict()), str(images)]
            log = Path(folder) / f"{len(workers)}.log"
            if worker := stack.enter_context(started(name, command, log)):
                worker.run(arguments.steps)  # compiles, not counted
                workers.append(worker)
        check_same_model(workers, config.encoder.hidden_size)
        for index in range(arguments.rounds):
            # Another one begins each round.
            for worker in workers[index % len(workers) :] + workers[: index % len(workers)]:
                time.sleep(_PAUSE_SECONDS)
                worker.times.append(worker.run(arguments.steps))
    print_results(workers)


if __name__ == "__main__":
    main()
