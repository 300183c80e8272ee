"""From the command to the first trained step, without and with compiled programs on disk.

  python benchmarks/startup.py

Also `python main.py --help` against `python -c "import jax"`.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, describe_machine, load_config, print_table

PARTS = ("imports", "data", "initial state", "first ten steps", "in all")


def measure(path: str, started: float) -> dict[str, float]:
    """Does what a run does until its first steps are done; returns the seconds of each part."""
    marks = [started]

    def mark() -> None:
        marks.append(time.time())

    from vae_jax import datasets
    from vae_jax.runtime import compilation
    from vae_jax.training import steps
    from vae_jax.training.settings import train_settings

    compilation.set_cpu_flags()
    compilation.use_cache()
    import jax

    mark()
    config = load_config(path)
    config.data.name = "mnist_5k"
    dataset = datasets.load(**config.data)
    images = jax.device_put(dataset.train.images)
    mark()
    settings = train_settings(config, (28, 28, 1), steps_per_epoch=40)
    state = jax.block_until_ready(steps.initial_state(settings, config.seed))
    mark()
    order = steps.epoch_order(settings, state.root_key, 1, len(images))
    jax.block_until_ready(steps.train_chunk(settings, state, images, order, 0, 10))
    mark()
    seconds = [after - before for before, after in itertools.pairwise(marks)]
    return dict(zip(PARTS, [*seconds, marks[-1] - marks[0]], strict=True))


def _child(path: str, cache: str) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), f"--config={path}"]
    command.append(f"--started={time.time()}")
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)


def _seconds(*arguments: str) -> float:
    start = time.perf_counter()
    # absl's --help ends with status 1.
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def main() -> None:
    """Runs the benchmark, or one start of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py", help="the model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.started:
        print(json.dumps(measure(arguments.config, arguments.started)))
        return
    print(f"{describe_machine()}; {arguments.config}, medians of {arguments.rounds}\n", flush=True)
    cold, warm = [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_child(arguments.config, cache))
            warm.append(_child(arguments.config, cache))
    rows = [
        (part, *(f"{statistics.median(run[part] for run in runs):.1f}" for runs in (cold, warm)))
        for part in PARTS
    ]
    print_table(("seconds", "cold", "warm"), rows)
    pairs = [
        (_seconds("main.py", "--help"), _seconds("-c", "import jax"))
        for _ in range(arguments.rounds + 1)
    ][1:]
    help_seconds, import_seconds = (
        statistics.median(column) for column in zip(*pairs, strict=True)
    )
    print(
        f"\n--help {help_seconds:.2f} s, import jax {import_seconds:.2f} s: "
        f"{help_seconds / import_seconds:.2f} times"
    )


if __name__ == "__main__":
    main()
