"""Mode `evaluate`: everything that is measured of one run by itself."""

import sys
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from vae_jax import datasets
from vae_jax.evaluation import generation, latent_statistics, log_likelihood
from vae_jax.evaluation.summary import format_summary, summarize
from vae_jax.evaluation.trained_run import Replica, open_best
from vae_jax.runtime import devices
from vae_jax.training import run_directory, steps


def _posterior_measures(replica: Replica, images: np.ndarray) -> dict[str, Any]:
    """Measures of the posteriors of images; warns where they say nothing of them."""
    mean, log_var = generation.encode(replica.model, replica.state.params, images)
    measures = latent_statistics.posterior_measures(mean, log_var)
    active, size = measures["active_units"], mean.shape[1]
    print(f"{replica.folder}: {active} of {size} latent variables are active")
    if latent_statistics.is_collapsed(active, size):
        print(
            f"warning: the posterior has collapsed, only {active} of {size} latent variables say "
            "something of the image: set loss.kl_warm_up_steps or loss.free_bits, or lower "
            "loss.kl_weight",
            file=sys.stderr,
        )
    return measures


def _likelihood_measures(
    replica: Replica, images: np.ndarray, num_samples: int, sha256: str
) -> dict[str, Any]:
    """The importance-weighted likelihood of binarised images."""
    checksum = int(devices.to_host(steps.checksum(replica.state)))
    estimates = log_likelihood.estimate(
        replica.model,
        replica.state.params,
        replica.state.root_key,
        images,
        num_samples,
        replica.folder,
        identity=f"{checksum} {sha256} {num_samples}",
    )
    measures = estimates.summarize()
    print(
        f"{replica.folder}: test -log p(x) {measures['negative_log_likelihood']:.2f} ± "
        f"{measures['standard_error']:.2f} nats per image, {num_samples} importance samples "
        f"(effective {measures['effective_sample_size']:.1f}); ELBO "
        f"{-measures['negative_elbo']:.2f}, gap {measures['gap']:.2f}"
    )
    return measures | {
        "num_importance_samples": num_samples,
        "binarization_seed": datasets.EVALUATION_BINARIZATION_SEED,
    }


def evaluate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Mode `evaluate`: metrics and figures of the best epoch so far; on binarised data log p(x)."""
    run = open_best(config, workdir)
    dataset = datasets.load(**config.data)
    run_directory.check_same_data(workdir, dataset.sha256)
    print(format_summary(summarize(run, dataset)))
    for replica in run.replicas:
        measures = {
            "best_step": int(replica.state.step),
            "units": "nats per image",
            "posterior": _posterior_measures(replica, dataset.test.images),
        }
        if config.data.binarization != "none":
            num_samples = config.evaluate.num_importance_samples
            measures["likelihood"] = _likelihood_measures(
                replica, dataset.test.images, num_samples, dataset.sha256
            )
        run_directory.write_json(replica.folder / "evaluation.json", measures)
