"""Uses of a trained model: this project's public API and straightforward PyTorch side by side.

  python benchmarks/inference.py --config=flagship --peers_python=.venv-peers/bin/python

About ten minutes on two cores. 10,000 samples; encoding 10,000 images; log p(x) of 500 images with
200 latent samples each. The prior is a standard normal, the parameters are initial ones, at which
all contenders have to give log p(x) within 1%. The first call of each task in a process includes
its compilation; the later ones take turns.
"""

import argparse
import statistics
import sys

import numpy as np
from common import describe_machine, load_comparable_config, print_table, spread
from processes import Contender, in_turns, started

from vae_jax import datasets

CONTENDERS = (
    Contender("ours", "ours", "inference"),
    Contender("PyTorch, eager", "pytorch", "inference, eager", True),
    Contender("PyTorch, compiled", "pytorch", "inference, compiled", True),
    Contender("PyTorch, compiled, channels last", "pytorch", "inference, compiled, last", True),
)
TASKS = ("sample", "encode", "log p(x)")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="flagship", help="the model: a name in configs/")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_images", type=int, default=10_000, help="sampled, and encoded")
    parser.add_argument("--num_likelihoods", type=int, default=500, help="images with a log p(x)")
    parser.add_argument("--num_samples", type=int, default=200, help="for each log p(x)")
    arguments = parser.parse_args()
    config = load_comparable_config(arguments.config)
    print(f"{describe_machine()}; {arguments.config}", flush=True)
    images = datasets.load("mnist_5k").train.images
    arrays = {
        "images": np.resize(images, (arguments.num_images, *images.shape[1:])),
        "binarized": np.uint8(255) * (images[: arguments.num_likelihoods] > 127),
        "num_samples": np.array(arguments.num_samples),
    }
    rows = []
    with started(CONTENDERS, arguments.peers_python, config.to_dict(), arrays) as workers:
        for task in TASKS:
            first = {worker: worker.ask(task) for worker in in_turns(workers, 1)}
            times = {worker: [] for worker in workers}
            for worker in in_turns(workers, arguments.rounds):
                if answer := worker.ask(task):
                    times[worker].append(answer["seconds"])
            ours = first[workers[0]]["result"]
            for worker in (worker for worker in workers if worker.is_alive):
                result = first[worker]["result"]
                if task == "log p(x)" and abs(result / ours - 1.0) > 0.01:
                    worker.leave_out(f"its mean {task} is {result:.1f}, not {ours:.1f}")
                    continue
                ratio = statistics.median(times[worker]) / statistics.median(times[workers[0]])
                cells = (f"{first[worker]['seconds']:.2f}", spread(times[worker], 2))
                rows.append((task, worker.name, *cells, f"{ratio:.2f}"))
    print()
    print_table(("", "", "first call, s", "s: median (min to max)", "times ours"), rows)


if __name__ == "__main__":
    main()
