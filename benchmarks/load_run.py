"""Seconds to load a trained model and to draw the first samples, in new processes.

  python benchmarks/load_run.py --run=models/flagship

With the cache of compiled programs empty, warm, and turned off.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from common import ROOT, describe_machine, print_table

_CODE = """
import json, sys, time
start = time.perf_counter()
import vae_jax
if sys.argv[2] == "cache":
    vae_jax.compilation.use_cache()
seconds = []
def lap():
    global start
    seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
vae = vae_jax.load_run(sys.argv[1])
lap()
vae.sample(16)
lap()
vae_jax.load_run(sys.argv[1])
lap()
print(json.dumps(seconds))
"""


def _measure(run: str, cache: str, folder: str) -> tuple[str, ...]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("JAX_")
    } | {"XDG_CACHE_HOME": folder, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _CODE, run, cache]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return tuple(f"{seconds:.2f}" for seconds in json.loads(result.stdout))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default=str(ROOT / "models" / "flagship"), help="run directory")
    arguments = parser.parse_args()
    print(f"{describe_machine()}; {arguments.run}\n", flush=True)
    header = ("cache", "import and load_run", "first sample(16)", "load_run again")
    with tempfile.TemporaryDirectory() as folder:
        cases = (("empty", "cache"), ("warm", "cache"), ("off", "off"))
        rows = ((name, *_measure(arguments.run, cache, folder)) for name, cache in cases)
        print_table(header, rows)


if __name__ == "__main__":
    main()
