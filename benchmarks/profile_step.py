"""What bounds our own training step: on CPU time by layer, matrix products apart; on GPU kernels.

  taskset -c 0 python benchmarks/profile_step.py --config=flagship

A minute. XLA's profiler says how long each operation of a compiled epoch takes, its metadata which
layer it belongs to. On one core the times add up to the step's; on several, operations that run
side by side are all counted. What is fused belongs to the layer of the last operation. A GPU runs
most of a step as one graph, which says nothing of layers: its kernels are counted by name.
"""

import argparse
import collections
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
from common import describe_machine, load_comparable_config, print_table
from contenders import ours
from jax import profiler

from vae_jax import datasets

# What only holds other operations.
_HOLDERS = re.compile(r"(while|call|conditional|ThunkExecutor)")
_PRODUCTS = re.compile(r"(dot|conv_general_dilated)")
_COLUMNS = ("forward, products", "forward, other", "backward, products", "backward, other")
_PART = re.compile(r"VAE\.\w+\)*/(encoder|decoder)/")
_LAYER = re.compile(
    r"/(lstm\w*|\w+LSTMCell_\d+|Dense_\d+|mean|log_var|ConvTranspose_\d+|ResidualBlock_\d+|logits)/"
)
_NUM_KERNELS = 15  # with a row of their own


def layer_of(operation: str) -> str:
    """Names the layer of an operation, from where in the program it was written."""
    if not operation:
        return "no layer named: copies, biases' gradients, finiteness"
    part, layer = _PART.search(operation), _LAYER.search(operation)
    if not part:
        return "optimizer, loss, batch, random numbers"
    return f"{part[1]}: {layer[1] if layer else 'between layers'}"


def operations_of(program: str) -> dict[str, str]:
    """Reads where each instruction of a compiled program was written, by its name."""
    instruction = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = (?:.*op_name="([^"]*)")?', re.MULTILINE)
    return dict(instruction.findall(program))


def events_of(folder: str, line_name: str) -> Iterator[tuple[str, float]]:
    """Yields the names and milliseconds of what the profiler saw on lines whose names begin so."""
    [path] = Path(folder).glob("**/*.xplane.pb")
    for plane in profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            if line.name.startswith(line_name):
                for event in line.events:
                    yield event.name, event.duration_ns / 1e6


def print_kernels(events: Iterable[tuple[str, float]], steps: int) -> None:
    """Prints a GPU's kernels, those that take the most of a step first, and their sum."""
    kernels: dict[str, list[float]] = collections.defaultdict(list)
    for name, milliseconds in events:
        kernels[name.partition("<")[0].partition("(")[0]].append(milliseconds)
    in_order = sorted(kernels.items(), key=lambda kernel: -sum(kernel[1]))
    rest = [value for _, values in in_order[_NUM_KERNELS:] for value in values]
    every = [value for values in kernels.values() for value in values]
    rows = [*in_order[:_NUM_KERNELS], ("all others", rest), ("sum", every)]
    print_table(
        ("kernel", "times a step", "ms a step", "microseconds each"),
        (
            (name, f"{len(v) / steps:.1f}", f"{sum(v) / steps:.3f}", f"{1e3 * sum(v) / len(v):.1f}")
            for name, v in rows
            if v
        ),
    )


def print_profile(times: Mapping[tuple[str, int], float]) -> None:
    """Prints a row for each layer, the longest first, and their sum."""
    rows = collections.defaultdict(lambda: [0.0] * len(_COLUMNS))
    for (layer, column), milliseconds in times.items():
        rows[layer][column] += milliseconds
    in_order = sorted(rows.items(), key=lambda row: -sum(row[1]))
    in_order.append(("sum", [sum(column) for column in zip(*rows.values(), strict=True)]))
    header = ("ms a step", *_COLUMNS, "sum")
    print_table(
        header,
        ((layer, *(f"{value:.1f}" for value in (*row, sum(row)))) for layer, row in in_order),
    )


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="flagship", help="the model: a file of configs/")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    config = load_comparable_config(arguments.config)
    print(
        f"{describe_machine()}; {arguments.config}, batch {config.train.batch_size}\n", flush=True
    )
    images = datasets.load("mnist_5k").train.images
    trainer = ours.Contender("compiled epoch", config.to_dict(), {"images": images})
    trainer.run(1)
    operations = operations_of(trainer.program())
    with tempfile.TemporaryDirectory() as folder:
        with profiler.trace(folder):
            trainer.run(arguments.steps)
        if jax.default_backend() == "gpu":
            print_kernels(events_of(folder, "Stream"), arguments.steps)
            return
        times = collections.Counter()
        for name, milliseconds in events_of(folder, "tf_XLA"):
            if name in operations and not _HOLDERS.match(name):
                is_backward = "transpose(jvp" in operations[name]
                column = 2 * is_backward + (not _PRODUCTS.match(name))
                times[layer_of(operations[name]), column] += milliseconds / arguments.steps
    print_profile(times)


if __name__ == "__main__":
    main()
