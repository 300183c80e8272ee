"""All measurements that matter on an accelerator, in one command of about nine minutes.

  python benchmarks/accelerator.py --mnist=FOLDER --peers_python=.venv-peers/bin/python

Runs of `main.py` from the command to the plots, with empty caches; then one training step of three
configurations and the uses of a trained model, beside plain Flax, PyTorch and Keras. FOLDER holds
MNIST's four files. A part that fails is named.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, describe_machine, print_table, watch, watch_ours
from train_run import parts

# Configuration, epochs, replicas.
_RUNS = (("baseline", 50, 1), ("baseline", 3, 8), ("flagship", 3, 1))
_COMPARISONS = (
    "train_step.py --rounds=2 --steps=64 --config=baseline",
    "train_step.py --rounds=2 --steps=64 --config=flagship",
    "train_step.py --rounds=2 --steps=64 --config=optimized",
    "inference.py --config=flagship",
)
_DEVICE = (
    "import jax; print(jax.device_count(), jax.default_backend(), jax.devices()[0].device_kind)"
)


def time_run(mnist: Path, config: str, num_epochs: int, num_replicas: int) -> list[str]:
    """Trains with empty caches; makes the run's row of the table."""
    arguments = (
        f"--config={config}",
        f"--config.data.manual_dir={mnist}",
        f"--config.train.num_epochs={num_epochs}",
        f"--config.train.num_replicas={num_replicas}",
    )
    with tempfile.TemporaryDirectory() as folder:
        run = watch_ours(Path(folder), *arguments, f"--workdir={folder}/run")
    cells = [f"`{config}`", str(num_epochs), str(num_replicas)]
    if run.problem:
        return [*cells, run.problem]
    begins, first, *epochs, end, total = parts(run, num_epochs)
    seconds = (begins, first, sum(epochs), epochs[-1], end, total)
    return [*cells, *(f"{value:.2f}" for value in seconds)]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, required=True, help="folder of the four files")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the peers")
    arguments = parser.parse_args()
    # In a process of its own: this one must not hold the device.
    device = watch([sys.executable, "-c", _DEVICE]).lines[-1][1]
    if " cpu " in device:
        sys.exit("error: JAX has no accelerator here; train_run.py and train_step.py measure a CPU")
    print(f"{describe_machine()}; {device}\n", flush=True)
    header = ("", "epochs", "replicas", "seconds to the first step", "first step")
    header += ("all epochs", "last epoch", "end", "in all")
    print_table(header, (time_run(arguments.mnist, *run) for run in _RUNS))
    for comparison in _COMPARISONS:
        print(f"\n{comparison}\n", flush=True)
        script, *more = (*comparison.split(), f"--peers_python={arguments.peers_python}")
        if subprocess.run([sys.executable, ROOT / "benchmarks" / script, *more]).returncode:
            print("\nleft out: it failed", flush=True)


if __name__ == "__main__":
    main()
