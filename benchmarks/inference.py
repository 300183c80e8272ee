"""Uses of a trained model: this project's public API and straightforward PyTorch side by side.

  python benchmarks/inference.py --config=flagship --peers_python=.venv-peers/bin/python

About ten minutes on two cores. 10,000 samples; encoding 10,000 images; log p(x) of 500 images with
200 latent samples each. The prior is a standard normal, the parameters are initial ones, at which
all contenders have to give log p(x) within 1%. The first call of each task in a process includes
its compilation; the later ones take turns.
"""

import numpy as np
from common import describe_machine, load_comparable_config, print_table
from processes import compare, parse_arguments, started

from vae_jax import datasets

CONTENDERS = (
    ("ours", "ours", "inference"),
    ("PyTorch, eager", "pytorch", "inference, eager"),
    ("PyTorch, compiled", "pytorch", "inference, compiled"),
    ("PyTorch, compiled, channels last", "pytorch", "inference, compiled, last"),
)
TASKS = ("sample", "encode", "log p(x)")


def main() -> None:
    """Runs the benchmark."""
    arguments = parse_arguments(__doc__, config="flagship", rounds=3)
    config = load_comparable_config(arguments.config)
    print(f"{describe_machine()}; {arguments.config}", flush=True)
    images = datasets.load("mnist_5k").train.images
    arrays = {
        "images": np.resize(images, (10_000, *images.shape[1:])),  # as many are sampled
        "binarized": np.uint8(255) * (images[:500] > 127),
        "num_samples": np.array(200),  # for each log p(x)
    }
    rows = []
    with started(CONTENDERS, arguments.peers_python, config.to_dict(), arrays) as workers:
        for task in TASKS:
            ours = None
            for worker, first, times, ratio in compare(workers, task, arguments.rounds):
                ours = ours or first["result"]
                if task == "log p(x)" and abs(first["result"] / ours - 1.0) > 0.01:
                    worker.leave_out(f"its mean {task} is {first['result']:.1f}, not {ours:.1f}")
                    continue
                rows.append((task, worker.name, f"{first['seconds']:.2f}", times, ratio))
    print()
    print_table(("", "", "first call, s", "s: median (min to max)", "times ours"), rows)


if __name__ == "__main__":
    main()
