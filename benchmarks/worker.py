"""One contender in a process of its own: does what it is told and reports the time.

Started by `processes.py`. A line on standard input is what to do, in JSON; each answer is a line of
JSON on standard output. A contender module has a class `Contender`, made from a variant, a
configuration and what `np.load` gives of a file, with `device`, `version`, `facts()`, a dictionary
that the script asks for first, and `run(request)`: for a training step `num_parameters` and
`first_loss`, and the request is a number of steps.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main(module: str, variant: str, config: str, inputs: str) -> None:
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
    contender = contenders.Contender(variant, json.loads(config), np.load(inputs))
    answer(device=contender.device, version=contender.version, **contender.facts())
    for line in sys.stdin:
        start = time.perf_counter()
        result = contender.run(json.loads(line))
        answer(seconds=time.perf_counter() - start, result=result)


if __name__ == "__main__":
    main(*sys.argv[1:])
