"""The value of each ingredient of the flagship, in nats of -log p(x).

  python benchmarks/likelihood_ablation.py --workdir=runs/ablation
  python benchmarks/likelihood_ablation.py --workdir=runs/candidates --candidates

Ingredients are added one after the other to the baseline on binarized pixels, for eight epochs on
50,000 images, and measured on the test images with 50 samples each. Candidates change the
convolutional flagship, for twelve epochs, and are measured on 2,000 validation images with 500
samples each: a change is chosen there. Every run is one of `main.py`: complete ones are skipped,
others resumed.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, print_table

import vae_jax
from vae_jax import datasets, shipped_configs
from vae_jax.configuration import flatten
from vae_jax.evaluation.measures import LOG_LIKELIHOOD_NAME

# The flagship's fields that each adds to those before it.
LADDER = {
    "baseline": ("data.binarization",),
    "swish": ("encoder.activation", "decoder.activation"),
    "initialization": ("initialization", "output_bias_init"),
    "steps": ("train.batch_size", "train.learning_rate"),
    "cosine": ("train.learning_rate_schedule",),
    "average": ("train.ema_decay",),
    "latent_size": ("latent_size",),
    "convolutional": (
        "decoder.dense_sizes",
        "decoder.grid_channels",
        "decoder.filters",
        "decoder.strides",
        "decoder.head",
    ),
    "residual": ("decoder.residual_blocks",),
    "bidirectional": ("encoder.bidirectional",),
    "dense_layer": ("encoder.mlp_sizes",),
    "coupling_flow": ("prior.kind", "prior.num_layers", "prior.hidden_size"),
    "path_gradient": ("loss.path_gradient",),
    "kl_warmup": ("loss.kl_warmup_steps",),
    "importance_weighted": ("loss.num_importance_samples", "loss.elbo_warmup_epochs"),
}
# The fields that each changes.
CANDIDATES: dict[str, dict[str, Any]] = {
    "convolutional_flagship": {},
    "no_convolutions": {"encoder.map_channels": 0, "encoder.residual_blocks": 0},
    "latent_64": {"latent_size": 64},
    "deep_decoder": {"decoder.filters": (64, 32, 16), "decoder.residual_blocks": (2, 2, 1)},
    "wide_decoder": {"decoder.filters": (96, 48, 8)},
    "five_samples_for_four_epochs": {"loss.elbo_warmup_epochs": 8},
    "twenty_samples": {"loss.num_importance_samples": 20},
}


def shortened(name: str, num_epochs: int) -> dict[str, Any]:
    """Returns the fields that a configuration changes for fewer epochs on 50,000 images.

    The KL warmup is the same fraction of the steps; the last epoch is importance-weighted.
    """
    config = shipped_configs.get_config(name)
    warmup = config.loss.kl_warmup_steps * num_epochs / config.train.num_epochs
    return {
        "loss.kl_warmup_steps": round(warmup),
        "loss.elbo_warmup_epochs": num_epochs - 1,
        "train.num_epochs": num_epochs,
        "data.validation_size": 10_000,
    }


def ladder() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each ingredient and the fields that it and those before it change."""
    short = shortened("flagship", 8)
    flagship = flatten(shipped_configs.get_config("flagship").to_dict()) | short
    fields = {path: short[path] for path in ("train.num_epochs", "data.validation_size")}
    fields["evaluate.num_importance_samples"] = 50
    for name, paths in LADDER.items():
        fields |= {path: flagship[path] for path in paths}
        yield name, fields.copy()


def run_modes(folder: Path, config: str, fields: Mapping[str, Any], *modes: str) -> None:
    """Runs modes of `main.py` one after the other in a run directory."""
    overrides = [f"--config.{path}={value}" for path, value in fields.items()]
    command = [sys.executable, ROOT / "main.py", f"--config={config}", f"--workdir={folder}"]
    for mode in modes:
        subprocess.run([*command, *overrides, f"--mode={mode}"], check=True)


def measure_ingredient(folder: Path, fields: Mapping[str, Any]) -> np.ndarray:
    """Trains a run; returns log p(x) of each test image."""
    if not (folder / "evaluation.json").exists():
        run_modes(folder, "baseline", fields, "train", "evaluate")
    return np.load(folder / LOG_LIKELIHOOD_NAME)


def measure_candidate(folder: Path, fields: Mapping[str, Any]) -> np.ndarray:
    """Trains a run; returns log p(x) of each of 2,000 validation images."""
    path = folder / "validation_log_likelihood.npy"
    if not path.exists():
        run_modes(folder, "convolutional_flagship", fields, "train")
        vae = vae_jax.load_run(folder)
        images = datasets.load(**vae.config.data).validation.images[:2_000]
        np.save(path, vae.log_likelihood(images > 127, num_samples=500))
    return np.load(path)


def mean_and_error(values: np.ndarray, sign: str = "") -> str:
    """Formats the mean and its standard error."""
    return f"{values.mean():{sign}.2f} ± {values.std() / np.sqrt(len(values)):.2f}"


def main() -> None:
    """Trains the runs and prints the table; gains are paired, image by image."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--candidates", action="store_true", help="gains over the first row")
    arguments = parser.parse_args()
    if arguments.candidates:
        short, measure = shortened("convolutional_flagship", 12), measure_candidate
        runs = [(name, short | changed) for name, changed in CANDIDATES.items()]
    else:
        runs, measure = [*ladder()], measure_ingredient
    rows, before = [], None
    for name, fields in runs:
        values = measure(arguments.workdir / name, fields)
        gain = "" if before is None else mean_and_error(values - before, "+")
        rows.append((f"`{name}`", mean_and_error(-values), gain))
        if before is None or not arguments.candidates:
            before = values
    print_table(("", "-log p(x)", "gain"), rows)


if __name__ == "__main__":
    main()
