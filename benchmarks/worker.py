"""One contender in a process of its own: takes steps when told to and reports the time.

Started by `train_step.py`. A line on standard input is a number of steps; each answer is a
line of JSON on standard output. A contender module has a class `Contender`, made from a
variant, a configuration and `<uint8>[n, 28, 28]` images, with `num_parameters`, `device`,
`version`, `first_loss()` and `run(num_steps)`.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main(module: str, variant: str, config: str, images: str) -> None:
    """Serves one contender until standard input ends."""
    # Whatever the libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

    def answer(**fields) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        contenders = importlib.import_module(f"contenders.{module}")
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    contender = contenders.Contender(variant, json.loads(config), np.load(images))
    answer(
        first_loss=contender.first_loss(),
        num_parameters=contender.num_parameters,
        device=contender.device,
        version=contender.version,
    )
    for line in sys.stdin:
        start = time.perf_counter()
        contender.run(int(line))
        answer(seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
