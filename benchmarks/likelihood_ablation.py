"""The value of each ingredient of the flagship, in nats of test -log p(x).

  python benchmarks/likelihood_ablation.py --workdir=runs/ablation

Ingredients are added one after the other to the baseline on binarized pixels. Every run is one of
`main.py`: complete ones are skipped, others resumed. `--only=NAME` does one, so that several
processes can share the work; the table has all complete runs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, print_table

from vae_jax import shipped_configs
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
}
# Numbers of steps or epochs are the same fraction of a shorter run.
_OF_LENGTH = ("loss.kl_warmup_steps", "loss.elbo_warmup_epochs")
# The flagship's ingredients were chosen on fewer images than it is trained on.
_VALIDATION_SIZE = 10_000
# The last epochs of the whole ladder, one at least.
_LAST = "importance_weighted"
NAMES = (*LADDER, _LAST)


def fields_of(name: str, epochs: int) -> dict[str, Any]:
    """Lists all fields in which a run differs from the baseline's configuration."""
    flagship = flatten(shipped_configs.get_config("flagship").to_dict())
    for path in _OF_LENGTH:
        flagship[path] = round(flagship[path] * epochs / flagship["train.num_epochs"])
    fields: dict[str, Any] = {
        "train.num_epochs": epochs,
        "data.validation_size": _VALIDATION_SIZE,
    }
    for rung, added in LADDER.items():
        fields |= {path: flagship[path] for path in added}
        if rung == name:
            return fields
    return fields | {
        "loss.num_importance_samples": flagship["loss.num_importance_samples"],
        "loss.elbo_warmup_epochs": min(flagship["loss.elbo_warmup_epochs"], epochs - 1),
    }


def train_and_evaluate(name: str, workdir: Path, arguments: argparse.Namespace) -> None:
    """Trains a run and measures its likelihood, unless it is complete."""
    if (workdir / "evaluation.json").exists():
        return
    fields = fields_of(name, arguments.epochs)
    fields |= {"evaluate.num_importance_samples": arguments.samples, "seed": arguments.seed}
    if arguments.manual_dir:
        fields["data.manual_dir"] = arguments.manual_dir
    command = [sys.executable, ROOT / "main.py", f"--config={ROOT / 'configs' / 'baseline.py'}"]
    command += [f"--workdir={workdir}", *(f"--config.{path}={v}" for path, v in fields.items())]
    print(f"{name}: {workdir}", flush=True)
    for mode in ("train", "evaluate"):
        subprocess.run([*command, f"--mode={mode}"], check=True)


def _gain(folder: Path, other: Path) -> str:
    """Averages the gain in log p(x) of each image, with its standard error over the images."""
    first, second = (np.load(each / LOG_LIKELIHOOD_NAME) for each in (folder, other))
    gains = second - first
    return f"{gains.mean():+.2f} ± {gains.std(ddof=1) / np.sqrt(len(gains)):.2f}"


def rows_of(workdir: Path) -> list[list[str]]:
    """Makes a row for each complete run; the gain is over the run it adds to."""
    folders = {name: workdir / name for name in NAMES}
    measures = {
        name: json.loads((folder / "evaluation.json").read_text())["likelihood"]
        for name, folder in folders.items()
        if (folder / "evaluation.json").exists()
    }
    below = dict(zip(NAMES[1:], NAMES, strict=False))
    rows = []
    for name, measured in measures.items():
        summary = json.loads((folders[name] / "summary.json").read_text())
        loss = measured["negative_log_likelihood"]
        other = below.get(name)
        rows.append(
            [
                f"`{name}`",
                f"{loss:.2f} ± {measured['standard_error']:.2f}",
                _gain(folders[other], folders[name]) if other in measures else "-",
                f"{measured['negative_elbo']:.2f}",
                f"{summary['parameters']:,}",
                f"{summary['training_seconds'] / 60:.0f}",
            ]
        )
    return rows


def main() -> None:
    """Trains the runs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="each has a --workdir of its own")
    parser.add_argument("--only", choices=NAMES, help="a single run")
    parser.add_argument("--manual_dir", help="folder of MNIST's four files")
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else NAMES:
        train_and_evaluate(name, arguments.workdir / name, arguments)
    header = ["", "-log p(x)", "gain", "-ELBO", "parameters", "minutes"]
    print_table(header, rows_of(arguments.workdir))


if __name__ == "__main__":
    main()
