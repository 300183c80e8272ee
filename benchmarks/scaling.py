"""Data parallelism: what it gives here, and where it can pay at all.

  python benchmarks/scaling.py

First a second epoch of 4,000 images, batch 104, on 1, 2, 4 and 8 virtual devices of one process
and on 2 processes, which share this machine's cores: what is measured is what dividing the work
costs. Then, from the time of a step and the bytes of the parameters, how long a step must take
for a second device to make it shorter.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from common import describe_machine, load_config, print_table

_NUM_IMAGES = 4000
_BATCH_SIZE = 104  # which 8 devices divide
_DEVICES = (1, 2, 4, 8)
# Bytes a second, one direction, as their makers state them.
_LINKS = {
    "10 Gb/s Ethernet": 1.25e9,
    "100 Gb/s InfiniBand": 12.5e9,
    "PCIe 5.0 x16": 64e9,
    "NVLink 4": 450e9,
}


def _start(config: str, **environment: str) -> subprocess.Popen:
    script = Path(__file__).resolve().parent / "epochs.py"
    case = json.dumps({"batch_size": _BATCH_SIZE})
    command = [sys.executable, str(script), f"--config={config}", f"--case={case}"]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, text=True
    )


def _result(processes: list[subprocess.Popen]) -> dict[str, float]:
    """Reads what the first of the processes measured."""
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(1)
    return json.loads(outputs[0].splitlines()[-1])


def _on_devices(config: str, count: int) -> dict[str, float]:
    flags = f"--xla_force_host_platform_device_count={count}"
    return _result([_start(config, XLA_FLAGS=flags)])


def _in_processes(config: str, count: int) -> dict[str, float]:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        address = f"localhost:{listener.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return _result([_start(config, **common, JAX_PROCESS_ID=str(index)) for index in range(count)])


def _measured(config: str) -> Iterator[tuple[str, str, str]]:
    """Yields a row for each case: its name, milliseconds a step, and that against one device's."""
    cases = [(f"{count} of 1 process", _on_devices, count) for count in _DEVICES]
    one_device = None
    for name, run, count in [*cases, ("1 of each of 2 processes", _in_processes, 2)]:
        step = 1e3 * run(config, count)["seconds"] / (_NUM_IMAGES // _BATCH_SIZE)
        one_device = one_device or step
        yield name, f"{step:.1f}", f"{step / one_device:.2f}"


def _num_parameter_bytes(config: str) -> int:
    import jax

    from vae_jax.datasets import DataSpec
    from vae_jax.evaluation.trained_run import abstract_params
    from vae_jax.training.settings import evaluation_settings

    params = abstract_params(evaluation_settings(load_config(config), DataSpec((28, 28, 1))))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--configs", nargs="+", default=["configs/quickstart.py", "configs/optimized.py"]
    )
    arguments = parser.parse_args()
    print(describe_machine())
    for config in arguments.configs:
        print(f"\n{config}, batch {_BATCH_SIZE}\n", flush=True)
        print_table(("devices", "ms a step", "times 1 device"), _measured(config))
        size = _num_parameter_bytes(config)
        # On n devices t / n + 2 (n - 1) / n * size / rate < t, whatever n, if t > 2 size / rate.
        print(f"\n{size / 1e6:.1f} MB of parameters: a step must take longer than\n")
        print_table(
            ("link", "ms"), ((name, f"{2e3 * size / rate:.2f}") for name, rate in _LINKS.items())
        )


if __name__ == "__main__":
    main()
