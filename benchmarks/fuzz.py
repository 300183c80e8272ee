"""Random and damaged input for the readers of files that we did not write, and the command line.

  python benchmarks/fuzz.py --inputs=100000

The targets, their inputs and conditions are those of `tests/support/fuzzing.py`. Status 1 if an
error other than `UserError` came out, or something was read wrongly.
"""

import argparse
import collections
import sys
import traceback
from typing import Any

import hypothesis
from common import describe_machine, print_table
from tqdm import tqdm

from tests.support import fuzzing

_BATCH = 500  # Hypothesis remembers the inputs of a batch


def run_target(
    target: fuzzing.Target, num_inputs: int, seed: int, bar: tqdm
) -> tuple[collections.Counter, dict[str, str]]:
    """Tries inputs of one target, the same ones for the same seed.

    Returns how many had each outcome, and the shortest input of each crash.
    """
    outcomes, crashes = collections.Counter(), {}
    while (left := num_inputs - outcomes.total()) > 0:

        @hypothesis.seed(seed + outcomes.total())
        @hypothesis.settings(
            fuzzing.SETTINGS,
            max_examples=min(left, _BATCH),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(target.inputs)
        def batch(value: Any) -> None:
            bar.update()
            try:
                outcomes["accepted" if target.check(value) else "refused"] += 1
            except Exception as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                crash = f"{type(error).__name__} in {frame.filename}:{frame.lineno}"
                outcomes["crashes"] += 1
                crashes[crash] = min(crashes.get(crash, repr(value)), repr(value), key=len)

        batch()
    return outcomes, crashes


def main() -> None:
    """Tries the inputs and prints the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{describe_machine()}; seed {arguments.seed}\n", flush=True)
    rows, crashes = [], []
    with tqdm(total=arguments.inputs, unit="inputs", smoothing=0.0, mininterval=1) as bar:
        for target in fuzzing.TARGETS:
            inputs = round(target.fraction * arguments.inputs)
            outcomes, found = run_target(target, inputs, arguments.seed, bar)
            counts = (outcomes[name] for name in ("accepted", "refused", "crashes"))
            rows.append((target.name, str(inputs), *map(str, counts)))
            crashes += [f"\n{target.name}: {c}\n  {e[:1_000]}" for c, e in found.items()]
    print_table(("target", "inputs", "accepted", "refused", "crashes"), rows)
    print(*crashes, sep="\n")
    sys.exit(bool(crashes))


if __name__ == "__main__":
    main()
