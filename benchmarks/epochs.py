"""A whole epoch, data to metrics, and how it grows with images, batch and replicas.

  python benchmarks/epochs.py

Each row is a process of its own: the second epoch of training and the validation after it,
its peak memory (the process's on CPU, the device's elsewhere).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from common import describe_machine, load_config, print_table

CASES = (
    *((f"{times} times the images", {"times": times}) for times in (1, 2, 4)),
    *((f"batch {size}", {"batch_size": size}) for size in (32, 64, 128, 256, 512, 1024)),
    *((f"{count} replicas", {"num_replicas": count}) for count in (1, 2, 4, 8, 16)),
)


def _peak_memory(device) -> int:
    stats = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(path: str, times: float = 1, **train_fields: int) -> dict[str, float]:
    """Trains two epochs; returns the second's seconds, its images and the peak of memory."""
    import jax
    import numpy as np
    from tqdm import tqdm

    from vae_jax import datasets
    from vae_jax.runtime import compilation, devices
    from vae_jax.training import steps, trainer
    from vae_jax.training.batches import to_batch
    from vae_jax.training.settings import train_settings
    from vae_jax.training.validation import evaluate_split

    compilation.set_cpu_flags()
    devices.connect()
    config = load_config(path)
    config.data.name = "mnist_5k"
    config.train.update(train_fields)
    mesh = devices.make_mesh(config.train.num_replicas, config.train.batch_size)
    dataset = datasets.load("mnist_5k")
    settings = train_settings(config, dataset.spec, steps_per_epoch=1, mesh=mesh)
    evaluation = settings.evaluation
    rows = np.resize(np.arange(len(dataset.train)), round(times * len(dataset.train)))
    data = devices.replicate(to_batch(dataset.train)[rows], mesh)  # again and again
    validation = to_batch(dataset.validation)
    state = steps.initial_state(settings, config.seed)
    bar = tqdm(disable=True)
    for epoch in (1, 2):
        start = time.perf_counter()
        state, _ = trainer.train_one_epoch(settings, state, data, epoch, bar)
        evaluate_split(evaluation, state.evaluation_params, state.root_key, validation)
        seconds = time.perf_counter() - start
    num_images = len(data) // settings.batch_size * settings.batch_size
    return {
        "seconds": seconds,
        "images": num_images * evaluation.num_replicas,
        "bytes": _peak_memory(jax.local_devices()[0]),
    }


def _row(config: str, name: str, case: dict[str, int]) -> tuple[str, ...]:
    command = [sys.executable, str(Path(__file__).resolve()), f"--config={config}"]
    command.append(f"--case={json.dumps(case)}")
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(result.stdout)
    speed, memory = found["images"] / found["seconds"], found["bytes"] / 2**20
    return name, f"{found['seconds']:.2f}", f"{speed:.0f}", f"{memory:.0f}"


def main() -> None:
    """Runs the benchmark, or one case of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py", help="the model")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.config, **json.loads(arguments.case))))
        return
    print(f"{describe_machine()}; {arguments.config} on 4,000 images\n", flush=True)
    header = ("", "seconds an epoch", "images a second", "peak MiB")
    print_table(header, (_row(arguments.config, name, case) for name, case in CASES))


if __name__ == "__main__":
    main()
