"""One training step: this project, plain Flax, PyTorch and Keras side by side in one run.

  python benchmarks/train_step.py --config=baseline --peers_python=.venv-peers/bin/python

About six minutes on two cores. `baseline`, `optimized` (the reference project's architecture) and
`flagship` are the models to look at, always with a standard normal prior and the ELBO of one latent
sample. Each contender trains the same model on the same images in a process of its own; they take
turns. Contenders whose library is missing, that die, or whose model differs are left out and named.
"""

from collections.abc import Sequence

import numpy as np
from common import describe_machine, load_comparable_config, print_table
from processes import Worker, compare, parse_arguments, started

from vae_jax import datasets

CONTENDERS = (
    ("ours", "ours", "command line"),
    ("ours, batches divided over the cores", "ours", "divided"),
    ("ours, batches not divided", "ours", "one device"),
    ("plain Flax, a call a step", "ours", "plain Flax"),
    ("PyTorch, eager", "pytorch", "eager"),
    ("PyTorch, eager, fused Adam", "pytorch", "eager, fused"),
    ("PyTorch, eager, fused, channels last", "pytorch", "eager, fused, last"),
    ("PyTorch, compiled, fused Adam", "pytorch", "compiled, fused"),
    ("PyTorch, compiled, fused, channels last", "pytorch", "compiled, fused, last"),
    ("Keras on TensorFlow, XLA", "keras_tensorflow", "XLA"),
)


def leave_out_other_models(workers: Sequence[Worker]) -> None:
    """Leaves out contenders of another size or loss at the start than the first's, by over 1%."""
    for worker in workers:  # PyTorch's LSTM has its biases twice
        for name, expected in workers[0].facts.items():
            if name != "description" and abs(worker.facts[name] / expected - 1.0) > 0.01:
                worker.leave_out(f"its {name} is {worker.facts[name]:.1f}, not {expected:.1f}")


def main() -> None:
    """Runs the benchmark; prints each contender's time, also as a multiple of the first's."""
    arguments = parse_arguments(__doc__, config="optimized", rounds=9, steps=10)
    config = load_comparable_config(arguments.config)
    print(f"{describe_machine()}; {arguments.config}, batch {config.train.batch_size}", flush=True)
    images = datasets.load("mnist_5k").train.images
    # Every step of a turn has a batch of its own.
    num_images = max(len(images), arguments.steps * config.train.batch_size)
    arrays = {"images": np.resize(images, (num_images, *images.shape[1:]))}
    with started(CONTENDERS, arguments.peers_python, config.to_dict(), arrays) as workers:
        leave_out_other_models(workers)
        rows = [
            (worker.name, times, ratio, f"{worker.facts['first_loss']:.1f}")
            for worker, _, times, ratio in compare(
                workers, arguments.steps, arguments.rounds, 1000 / arguments.steps
            )
        ]
    print()
    print_table(("", "ms a step: median (min to max)", "times ours", "first loss"), rows)


if __name__ == "__main__":
    main()
