"""Random and damaged input for what reads files we did not write, and for the command line.

  python benchmarks/fuzz.py --inputs=100000

The targets, their inputs and what has to hold are those of `tests/support/fuzzing.py`. Status 1 if
anything but a `UserError` came out, or what was read is wrong.
"""

import argparse
import collections
import dataclasses
import sys
import traceback
from typing import Any

import hypothesis
from common import describe_machine, print_table
from tqdm import tqdm

from tests.support import fuzzing

# Hypothesis remembers what it has tried: a batch at a time, that takes little memory.
_BATCH = 500
# Allocated once, whatever comes: modules imported, caches filled.
_WARM_UP = 20


@dataclasses.dataclass
class Tally:
    """What became of one target's inputs."""

    accepted: int = 0
    refused: int = 0
    peak_bytes: int = 0
    # The shortest input of each crash, by what the crash looks like.
    crashes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)

    def tried(self) -> int:
        """Counts the inputs."""
        return self.accepted + self.refused + self.crashes.total()

    def add(self, target: fuzzing.Target, value: Any) -> None:
        """Tries one input."""
        try:
            outcome = target.check(value)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            crash = f"{type(error).__name__} in {frame.filename}:{frame.lineno}"
            self.crashes[crash] += 1
            self.examples[crash] = min(self.examples.get(crash, repr(value)), repr(value), key=len)
            return
        self.accepted += outcome.accepted
        self.refused += not outcome.accepted
        self.peak_bytes = max(self.peak_bytes, outcome.peak_bytes)


def run_target(target: fuzzing.Target, inputs: int, seed: int, bar: tqdm) -> Tally:
    """Tries `inputs` inputs of one target; the same ones for the same seed."""
    tally = Tally()
    while (left := inputs - tally.tried()) > 0:

        @hypothesis.seed(seed + tally.tried())
        @hypothesis.settings(
            max_examples=min(left, _BATCH),
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(target.inputs)
        def batch(value: Any) -> None:
            tally.add(target, value)
            bar.update()

        batch()
    return tally


def main() -> int:
    """Tries the inputs and prints what became of them; returns 1 if anything crashed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{describe_machine()}; seed {arguments.seed}\n", flush=True)
    tallies = {}
    with tqdm(total=arguments.inputs, unit="inputs", smoothing=0.0, mininterval=1) as bar:
        for target in fuzzing.TARGETS:
            inputs = round(target.fraction * arguments.inputs)
            bar.set_description(target.name)
            run_target(target, min(inputs, _WARM_UP), -1, tqdm(disable=True))
            tallies[target.name] = run_target(target, inputs, arguments.seed, bar)
    header = ("target", "inputs", "accepted", "refused", "crashes", "peak MiB of one input")
    rows = [
        (
            name,
            *map(str, (tally.tried(), tally.accepted, tally.refused, tally.crashes.total())),
            f"{tally.peak_bytes / 2**20:.1f}",
        )
        for name, tally in tallies.items()
    ]
    print_table(header, rows)
    for name, tally in tallies.items():
        for crash, count in tally.crashes.most_common():
            print(f"\n{name}: {count} times {crash}\n  {tally.examples[crash][:1_000]}")
    return int(any(tally.crashes for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
