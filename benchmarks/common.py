"""Shared by the benchmarks: configurations, programs that are watched, tables, MNIST's files.

The peers' interpreter imports it too, without this project's dependencies.
"""

import argparse
import gzip
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
IMAGE_SIZE = 28  # height and width of a digit
# Of the whole runs that `train_run.py` compares.
NUM_EPOCHS = 2
VALIDATION_SIZE = 5000
# A model whose steps take a few milliseconds.
TINY_MODEL = (
    "--config.latent_size=4",
    "--config.encoder.kind=dense",
    "--config.encoder.dense_sizes=(8,)",
    "--config.decoder.dense_sizes=()",
    "--config.decoder.grid_channels=1",
    "--config.decoder.filters=(2,)",
    "--config.decoder.strides=(4,)",
    "--config.decoder.residual_blocks=()",
)


def load_comparable_config(name: str) -> Any:
    """Loads a configuration of `configs/` without the features that the peers' models lack."""
    from vae_jax import shipped_configs

    config = shipped_configs.get_config(name)
    config.prior.kind = "standard_normal"
    config.condition.kind = "none"
    config.loss.path_gradient = False
    config.loss.num_importance_samples = 1
    config.loss.elbo_warmup_epochs = 0
    config.loss.kl_warmup_steps = 0
    has_other_encoder = config.encoder.kind != "lstm" or config.encoder.map_channels
    if has_other_encoder or config.decoder.dropout_after or config.loss.free_bits:
        sys.exit(f"error: {name}: the peers have LSTM encoders of pixels, no dropout, no free bits")
    return config


def decoder_sizes(decoder: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Computes the sizes of a decoder's dense layers and the grid they end in."""
    size = IMAGE_SIZE // math.prod(decoder["strides"])
    grid = (size, size, decoder["grid_channels"])
    return (*decoder["dense_sizes"], math.prod(grid)), grid


def parse_run_arguments() -> argparse.Namespace:
    """Parses the arguments that `train_run.py` gives a peer's program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=json.loads, required=True, help="as JSON")
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's files")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights and samples")
    parser.add_argument("--compiled", action="store_true", help="PyTorch: compiled, fused Adam")
    return parser.parse_args()


def read_images(folder: Path) -> np.ndarray:
    """Reads MNIST's official file of training images, `<uint8>[n, 28, 28]`."""
    path = folder / "train-images-idx3-ubyte"
    if path.exists():
        content = path.read_bytes()
    else:
        content = gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)  # after the header


def describe_machine() -> str:
    """Describes the processor and the number of its cores."""
    cpuinfo, model = Path("/proc/cpuinfo"), platform.machine()
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    if names := [line for line in lines if line.startswith("model name")]:
        model = names[0].partition(":")[2].strip()
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def last_error(output: str) -> str | None:
    """Returns the last line of an output, which is that of the exception."""
    lines = output.strip().splitlines()
    return lines[-1] if lines else None


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a Markdown table, each row as soon as it is there."""
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints the lines of a table as they come."""
    for line in table_lines(header, rows):
        print(line, flush=True)


class Watched(NamedTuple):
    """A program that was run."""

    lines: list[tuple[float, str]]  # of its output, each with the seconds since the start
    seconds: float  # until it ended
    peak_bytes: int  # of the memory of the largest of its processes
    problem: str | None  # its last error, if it did not finish

    def when(self, beginning: str) -> float:
        """Returns the seconds until the first line with this beginning."""
        return next(seconds for seconds, line in self.lines if line.startswith(beginning))


def watch(
    command: Sequence[str], environment: Mapping[str, str] | None = None, last: str | None = None
) -> Watched:
    """Runs a program with more variables of the environment.

    It is ended, with its children, at the first line with the beginning `last`.
    """
    lines, start, problem = [], time.perf_counter(), None
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            env=os.environ | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that it can be ended with its children
        )
        for line in process.stdout:
            lines.append((time.perf_counter() - start, line.rstrip()))
            if last and line.startswith(last):
                os.killpg(process.pid, signal.SIGKILL)
                break
        else:
            last = None  # it was not ended
        _, process.returncode, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if process.returncode and not last:
            errors.seek(0)
            problem = last_error(errors.read()) or f"status {process.returncode}"
    return Watched(lines, seconds, 1024 * usage.ru_maxrss, problem)


def watch_ours(caches: Path, *arguments: str, last: str | None = None) -> Watched:
    """Runs `main.py`, which also prints when its first step begins and is done.

    Prepared data and compiled programs are cached in `caches` alone.
    """
    program = ROOT / "benchmarks" / "contenders" / "ours_run.py"
    command = [sys.executable, str(program), f"--config.data.data_dir={caches}/data", *arguments]
    environment = {"XDG_CACHE_HOME": str(caches), "JAX_COMPILATION_CACHE_DIR": ""}
    return watch(command, environment, last)
