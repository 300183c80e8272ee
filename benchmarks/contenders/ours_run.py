"""`main.py`, which also prints when its first training step begins and is done.

  python benchmarks/contenders/ours_run.py --config=configs/baseline.py --workdir=DIR

Started by `common.watch_ours`, with the arguments of `main.py`.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vae_jax import modes
from vae_jax.__main__ import main

get_mode = modes.get_mode


def _get_mode(name: str) -> modes.Mode:
    """Imports a mode and has its first chunk, of one step, say that it begins and is done."""
    mode = get_mode(name)
    import jax

    from vae_jax.training import steps

    train_chunk = steps.train_chunk

    def first_chunk(*arguments: Any) -> Any:
        steps.train_chunk = train_chunk
        print("first step begins", flush=True)
        result = jax.block_until_ready(train_chunk(*arguments))
        print("first step done", flush=True)
        return result

    steps.train_chunk = first_chunk
    return mode


if __name__ == "__main__":
    # Once the command line imports the mode: nothing here changes what is loaded when.
    modes.get_mode = _get_mode
    main()
