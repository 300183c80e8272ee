"""Random and damaged input for the readers of files that we did not write, and the command line.

  python benchmarks/fuzz.py --inputs=100000

The targets, their inputs and conditions are those of `tests/support/fuzzing.py`. An error other
than `UserError`, or a wrong value, ends it with the smallest such input.
"""

import argparse
import collections
from typing import Any

import hypothesis
from common import describe_machine, print_table
from tqdm import tqdm

from tests.support import fuzzing

_BATCH = 500  # Hypothesis remembers the inputs of a batch


def run_target(target: fuzzing.Target, num_inputs: int, seed: int, bar: tqdm) -> tuple[str, ...]:
    """Tries inputs of one target, the same for the same seed; returns its row of the table."""
    outcomes = collections.Counter()
    while (left := num_inputs - outcomes.total()) > 0:

        @hypothesis.seed(seed + outcomes.total())
        @hypothesis.settings(fuzzing.SETTINGS, max_examples=min(left, _BATCH))
        @hypothesis.given(target.inputs)
        def batch(value: Any) -> None:
            outcomes[target.check(value)] += 1
            bar.update()

        batch()
    return target.name, str(num_inputs), str(outcomes[True]), str(outcomes[False])


def main() -> None:
    """Tries the inputs and prints the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{describe_machine()}; seed {arguments.seed}\n", flush=True)
    with tqdm(total=arguments.inputs, unit="inputs", smoothing=0.0, mininterval=1) as bar:
        rows = [
            run_target(target, round(target.fraction * arguments.inputs), arguments.seed, bar)
            for target in fuzzing.TARGETS
        ]
    print_table(("target", "inputs", "accepted", "refused"), rows)


if __name__ == "__main__":
    main()
