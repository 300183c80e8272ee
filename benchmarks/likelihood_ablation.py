"""The value of each ingredient of the flagship, in nats of test -log p(x).

  python benchmarks/likelihood_ablation.py --workdir=runs/ablation

Ingredients are added one after the other to the baseline on binarized pixels, for eight epochs,
each with 50 importance samples an image. Every run is one of `main.py`: complete ones are skipped,
others resumed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

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
    "importance_weighted": ("loss.num_importance_samples", "loss.elbo_warmup_epochs"),
}
_NUM_EPOCHS = 8


def main() -> None:
    """Trains the runs and prints the table; gains are over the row before, image by image."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    workdir, rows, before = parser.parse_args().workdir, [], None
    flagship = flatten(shipped_configs.get_config("flagship").to_dict())
    # The warmup is the same fraction of the shorter run; the last epoch is importance-weighted.
    warmup = flagship["loss.kl_warmup_steps"] * _NUM_EPOCHS / flagship["train.num_epochs"]
    flagship["loss.kl_warmup_steps"] = round(warmup)
    flagship["loss.elbo_warmup_epochs"] = _NUM_EPOCHS - 1
    # The ingredients were chosen on fewer images than the flagship is trained on.
    fields = {"train.num_epochs": _NUM_EPOCHS, "data.validation_size": 10_000}
    fields["evaluate.num_importance_samples"] = 50
    for name, added in LADDER.items():
        fields |= {path: flagship[path] for path in added}
        overrides = [f"--config.{path}={value}" for path, value in fields.items()]
        command = [sys.executable, ROOT / "main.py", "--config=baseline", *overrides]
        command.append(f"--workdir={workdir / name}")
        if not (workdir / name / "evaluation.json").exists():
            for mode in ("train", "evaluate"):
                subprocess.run([*command, f"--mode={mode}"], check=True)
        log_likelihoods = np.load(workdir / name / LOG_LIKELIHOOD_NAME)
        measured = json.loads((workdir / name / "evaluation.json").read_text())["likelihood"]
        loss, error = measured["negative_log_likelihood"], measured["standard_error"]
        gains = np.zeros(1) if before is None else log_likelihoods - before
        gain = f"{gains.mean():+.2f} ± {gains.std() / np.sqrt(len(gains)):.2f}"
        rows.append((f"`{name}`", f"{loss:.2f} ± {error:.2f}", gain))
        before = log_likelihoods
    print_table(("", "-log p(x)", "gain"), rows)


if __name__ == "__main__":
    main()
