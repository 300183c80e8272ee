"""All measurements that matter on an accelerator, in one command of at most nine minutes.

  python benchmarks/accelerator.py --mnist=FOLDER

Fifty epochs of `configs/baseline.py` from the command to the plots; three epochs of 8 replicas and
of the flagship; one training step of three configurations and the uses of a trained model, beside
PyTorch, plain Flax and Keras. Every part has a time limit; one that fails or exceeds it is named.
Nothing is downloaded. `--small` tries all parts on a CPU, on the embedded digits.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import jax
from common import ROOT, describe_machine, print_table
from train_run import run_ours
from watched import watch

# Name, configuration, epochs, further fields and limit in seconds of each run.
_RUNS = (
    ("`baseline`", "baseline", 50, (), 110),
    ("`baseline`, 1 replica", "baseline", 3, (), 45),
    ("`baseline`, 8 replicas", "baseline", 3, ("--config.train.num_replicas=8",), 60),
    ("`flagship`", "flagship", 3, (), 90),
)
_SMALL_RUNS = (
    ("`quickstart`", "quickstart", 2, (), 100),
    ("`quickstart`, 2 replicas", "quickstart", 2, ("--config.train.num_replicas=2",), 100),
)
# Script, configuration, further arguments and limit in seconds.
_TABLES = (
    ("train_step.py", "baseline", ("--rounds=2", "--steps=64"), 55),
    ("train_step.py", "flagship", ("--rounds=2", "--steps=64"), 80),
    ("train_step.py", "optimized", ("--rounds=2", "--steps=64"), 55),
    ("inference.py", "flagship", (), 55),
)
_SMALL_TABLES = (
    ("train_step.py", "quickstart", ("--rounds=1", "--steps=1"), 150),
    (
        "inference.py",
        "quickstart",
        ("--rounds=1", "--num_images=100", "--num_likelihoods=5", "--num_samples=10"),
        150,
    ),
)


def time_run(name: str, config: str, epochs: int, more: tuple[str, ...], limit: int) -> list[str]:
    """Trains from the command to the plots, with empty caches; makes its row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*more, f"--config.train.num_epochs={epochs}"]
        workdir, caches = Path(folder) / "run", Path(folder) / "caches"
        run = run_ours(config, workdir, caches, arguments, limit)
    if run.problem:
        return [name, str(epochs), run.problem, "", "", ""]
    begun = run.when("first step begins")
    last, before = (run.when(f"epoch {epoch}/") for epoch in (epochs, epochs - 1))
    [test] = [found[0] for _, line in run.lines if (found := re.search(r"test [\d.]+", line))][:1]
    seconds = (begun, last - before, run.seconds)
    return [name, str(epochs), *(f"{value:.2f}" for value in seconds), test]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", default=os.environ.get("MNIST_DIR"), help="the four files")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--small", action="store_true", help="little of everything, on a CPU")
    arguments = parser.parse_args()
    if not (arguments.small or arguments.mnist):
        sys.exit("error: --mnist is missing; give the folder of MNIST's four files, or --small")
    data = f"--config.data.manual_dir={arguments.mnist}"
    if arguments.small:
        data = "--config.data.name=mnist_5k"
    # In a process of its own: this one must not hold the device.
    code = "import jax; print(jax.device_count(), 'x', jax.devices()[0].device_kind)"
    device = watch([sys.executable, "-c", code]).lines[-1][1]
    print(f"{describe_machine()}; {device}, JAX {jax.__version__}\n", flush=True)
    header = ("seconds", "epochs", "to the first step", "last epoch", "in all", "nats")
    rows = _SMALL_RUNS if arguments.small else _RUNS
    print_table(
        header,
        (time_run(name, config, n, (data, *more), limit) for name, config, n, more, limit in rows),
    )
    for script, config, more, limit in _SMALL_TABLES if arguments.small else _TABLES:
        print(f"\n{script}, `{config}`\n", flush=True)
        command = [sys.executable, str(ROOT / "benchmarks" / script), f"--config={config}"]
        command += [f"--peers_python={arguments.peers_python}", *more]
        if problem := watch(command, limit=limit, echo=True).problem:
            print(f"\nleft out: {script}: {problem}", flush=True)


if __name__ == "__main__":
    main()
