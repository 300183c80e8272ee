"""What the benchmarks share: configurations by file, the machine's description, tables."""

import itertools
import math
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
IMAGE_SIZE = 28  # height and width of a digit
# Several processes share one GPU: none may take its memory for itself.
SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def load_config(path: str) -> Any:
    """Loads the configuration that a file in `configs/` describes, or that has this name."""
    from vae_jax import shipped_configs  # which the peers' interpreter may lack

    return shipped_configs.get_config(Path(path).stem)


def load_comparable_config(path: str) -> Any:
    """Loads a configuration with what the peers' models lack left out.

    A standard normal prior, the ELBO of one latent sample, no warmup of its KL term, no labels.
    Exits where the peers' models lack more.
    """
    config = load_config(path)
    config.prior.kind = "standard_normal"
    config.condition.kind = "none"
    config.loss.path_gradient = False
    config.loss.num_importance_samples = 1
    config.loss.elbo_warmup_epochs = 0
    config.loss.kl_warmup_steps = 0
    if config.encoder.kind != "lstm" or config.decoder.dropout_after or config.loss.free_bits:
        sys.exit(f"error: {path}: the peers have LSTM encoders, no dropout and no free bits")
    return config


def decoder_sizes(
    decoder: Mapping[str, Any], image_size: int = IMAGE_SIZE
) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Computes a decoder's dense layers and the grid they end in, for square images.

    Args:
      decoder: the fields of a configuration's decoder.
      image_size: height and width; the strides must divide it.
    """
    size = image_size // math.prod(decoder["strides"])
    grid = (size, size, decoder["grid_channels"])
    return (*decoder["dense_sizes"], math.prod(grid)), grid


def describe_machine() -> str:
    """Describes the processor and how many of its cores there are."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def last_error(output: str) -> str | None:
    """Returns the line that says why a program ended: its last exception's first, or its last."""
    _, traceback, trace = output.strip().rpartition("Traceback (most recent call last):\n")
    lines = trace.splitlines()
    if traceback:  # what follows an exception may be notes and advice
        lines = [line for line in lines if not line.startswith(" ")][:1]
    return lines[-1] if lines else None


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Formats median, and minimum to maximum."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table, each row as soon as it is there."""
    for cells in itertools.chain((header, ["---"] * len(header)), rows):
        print(f"| {' | '.join(cells)} |", flush=True)
