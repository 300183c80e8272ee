"""Uses of a trained model: this project's public API and straightforward PyTorch side by side.

  python benchmarks/inference.py --config=flagship --peers_python=.venv-peers/bin/python

About ten minutes on two cores. 10,000 samples; encoding 10,000 images; log p(x) of 500 images with
200 latent samples each. The prior is a standard normal, the parameters are drawn and not trained,
and the same in all contenders: what they give is compared before anything is printed. The first
call of each task in a process holds its compilation; the later ones take turns.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from common import IMAGE_SIZE, describe_machine, load_comparable_config, print_table, spread
from flax.traverse_util import flatten_dict
from processes import Contender, Worker, in_turns, started

from vae_jax import datasets
from vae_jax.datasets import DataSpec
from vae_jax.model.rng_streams import make_root_key
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params

CONTENDERS = (
    Contender("ours", "ours_inference", ""),
    Contender("PyTorch, eager", "pytorch_inference", "eager", True),
    Contender("PyTorch, compiled", "pytorch_inference", "compiled", True),
    Contender(
        "PyTorch, compiled, channels last", "pytorch_inference", "compiled, channels last", True
    ),
)
TASKS = ("sample", "encode", "log p(x)")


def draw_params(config: Any) -> dict[str, np.ndarray]:
    """Draws parameters, none of them zero, by their paths."""
    model = evaluation_settings(config, DataSpec((IMAGE_SIZE, IMAGE_SIZE, 1))).model
    params = flatten_dict(init_params(model, make_root_key(config.seed)), sep="/")
    generator = np.random.RandomState(config.seed)
    return {
        path: np.float32(leaf + 0.01 * generator.normal(size=leaf.shape))
        for path, leaf in jax.device_get(params).items()
    }


def check_same_results(task: str, workers: Sequence[Worker], results: Mapping[Any, Any]) -> None:
    """Leaves out contenders whose results of a task are not those of the first one."""
    ours = np.array(results[task, workers[0]])
    for worker in workers[1:]:
        if not worker.is_alive:
            continue
        theirs = np.array(results[task, worker])
        if task == "log p(x)":  # of other latent samples
            difference, error = (
                theirs.mean() - ours.mean(),
                np.std(theirs - ours) / len(ours) ** 0.5,
            )
            print(f"{worker.name}: {task} is {difference:+.3f} ± {error:.3f} from ours", flush=True)
            is_same = abs(difference) < 4.0 * error
        else:
            is_same = np.allclose(ours, theirs, rtol=1e-2, atol=1e-4)
        if not is_same:
            worker.leave_out(f"{task} gives {theirs[:3]}, not {ours[:3]}")


def print_results(
    workers: Sequence[Worker], first: Mapping[Any, float], times: Mapping[Any, Sequence[float]]
) -> None:
    """Prints the table, each contender's time as a multiple of the first's."""
    rows = []
    for task in TASKS:
        reference = statistics.median(times[task, workers[0]])
        for worker in workers:
            if worker.is_alive:
                seconds = times[task, worker]
                ratio = f"{statistics.median(seconds) / reference:.2f}"
                cells = (f"{first[task, worker]:.2f}", spread(seconds, 2), ratio)
                rows.append((task, worker.name, *cells))
    print()
    print_table(("", "", "first call, s", "s: median (min to max)", "times ours"), rows)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="flagship", help="the model: a file of configs/")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_images", type=int, default=10_000, help="sampled, and encoded")
    parser.add_argument("--num_likelihoods", type=int, default=500, help="images with a log p(x)")
    parser.add_argument("--num_samples", type=int, default=200, help="for each log p(x)")
    arguments = parser.parse_args()
    config = load_comparable_config(arguments.config)
    print(f"{describe_machine()}; {arguments.config}", flush=True)
    images = datasets.load("mnist_5k").train.images
    arrays = draw_params(config) | {
        "images": np.resize(images, (arguments.num_images, *images.shape[1:])),
        "binarized": np.uint8(255) * (images[: arguments.num_likelihoods] > 127),
        "num_samples": np.array(arguments.num_samples),
    }
    with started(CONTENDERS, arguments.peers_python, config.to_dict(), arrays) as workers:
        if not workers:
            sys.exit("error: no contender is left")
        first, results = {}, {}
        times = {(task, worker): [] for task in TASKS for worker in workers}
        for task in TASKS:
            for worker in in_turns(workers, 1):
                if answer := worker.ask(task):
                    first[task, worker] = answer["seconds"]
                    results[task, worker] = answer["result"]
            check_same_results(task, workers, results)
            for worker in in_turns(workers, arguments.rounds):
                if answer := worker.ask(task):
                    times[task, worker].append(answer["seconds"])
    print_results(workers, first, times)


if __name__ == "__main__":
    main()
