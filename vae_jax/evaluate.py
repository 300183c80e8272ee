"""Mode `evaluate`: everything that is measured of one run by itself."""

import math
import os
import sys
from pathlib import Path

import ml_collections
import numpy as np

from vae_jax import datasets
from vae_jax.configuration import has_likelihood
from vae_jax.evaluation import (
    conditional_measures,
    generation,
    latent_statistics,
    log_likelihood,
)
from vae_jax.evaluation.input_images import write_npy
from vae_jax.evaluation.measures import (
    EVALUATION_NAME,
    LOG_LIKELIHOOD_NAME,
    SUMMARY_NAME,
    ConditionalMeasures,
    Evaluation,
    LikelihoodMeasures,
    PosteriorMeasures,
)
from vae_jax.evaluation.measuring import Measurer
from vae_jax.evaluation.summary import UNITS, format_summary, summarize
from vae_jax.evaluation.trained_run import Replica, load_data, restore_to_write
from vae_jax.modes import Mode, run_flags
from vae_jax.runtime import devices
from vae_jax.runtime.files import write_record
from vae_jax.training.batches import to_batch
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.weights import checksum, named_arrays

_NAMES = ("plots", SUMMARY_NAME, EVALUATION_NAME, LOG_LIKELIHOOD_NAME, log_likelihood.PARTIAL_NAME)


def evaluate(
    source: RunDirectory,
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Writes metrics and plots of the best epoch so far; log p(x) where the loss bounds it.

    Args:
      source: the run directory.
      output: where files go; the run directory if None.

    Raises:
      UserError: the run or its data cannot be read, or are not the same any more.
    """
    run = restore_to_write(source, output, _NAMES)
    dataset, config = load_data(run), run.config
    print(format_summary(summarize(run, dataset)))
    for replica in run.replicas:
        data = to_batch(dataset.test)
        posterior = latent_statistics.posterior_measures(
            replica.model,
            replica.params,
            replica.root_key,
            generation.encode(replica.model, replica.params, data),
            data,
        )
        likelihood, doubt, measurer = None, None, Measurer()
        if has_likelihood(config.likelihood.kind, config.data.binarization):
            likelihood, doubt = _measure_likelihood(replica, dataset, config, measurer)
        conditional = _measure_conditional(replica, dataset)
        evaluation = Evaluation(
            UNITS, replica.step, posterior, likelihood, measurer.not_measured, conditional
        )
        write_record(replica.folder / EVALUATION_NAME, evaluation)
        (replica.folder / log_likelihood.PARTIAL_NAME).unlink(missing_ok=True)
        # Only now, when nothing that printing may raise can lose them.
        _print_posterior(replica.folder, posterior, config.latent_size)
        for name, reason in measurer.reasons.items():
            print(f"{replica.folder}: {name} is not measured: {reason}")
        if likelihood:
            _print_likelihood(replica.folder, likelihood)
        if doubt:
            print(f"warning: {replica.folder}: {doubt}", file=sys.stderr)
        if conditional:
            _print_conditional(replica.folder, conditional)


def _print_posterior(folder: Path, measures: PosteriorMeasures, size: int) -> None:
    """Tells how many latent variables are active; warns where they say nothing of the images."""
    active = measures.active_units
    for name, reason in (measures.not_measured or {}).items():
        print(f"{folder}: {name} is not measured: {reason}")
    if active is None:
        return
    print(f"{folder}: {active} of {size} latent variables are active")
    if latent_statistics.is_collapsed(active, size):
        print(
            f"warning: the posterior has collapsed, only {active} of {size} latent variables say "
            "something of the image: set loss.kl_warmup_steps or loss.free_bits, or lower "
            "loss.kl_weight",
            file=sys.stderr,
        )


def _measure_likelihood(
    replica: Replica,
    dataset: datasets.Dataset,
    config: ml_collections.ConfigDict,
    measurer: Measurer,
) -> tuple[LikelihoodMeasures | None, str | None]:
    """Estimates the importance-weighted likelihood of the test images; None if not finite.

    The second value is a warning if more than a tenth of the images needs more samples.
    """
    num_samples = config.evaluate.num_importance_samples
    is_binarized = config.data.binarization != "none"
    parameters = checksum(named_arrays(devices.to_host(replica.params)))
    estimates = log_likelihood.estimate(
        replica.model,
        replica.params,
        replica.root_key,
        to_batch(dataset.test),
        num_samples,
        replica.folder,
        identity=f"{parameters} {replica.seed} {dataset.sha256} {num_samples} balance heuristic",
    )
    values = measurer("log p(x)", np.array, np.stack([*vars(estimates).values()]))
    if values is None:
        return None, None
    write_npy(replica.folder / LOG_LIKELIHOOD_NAME, estimates.log_likelihood)
    measures = estimates.summarize(
        num_samples,
        datasets.EVALUATION_BINARIZATION_SEED if is_binarized else None,
        math.prod(dataset.image_shape) if replica.model.likelihood.is_discrete else None,
    )
    return measures, estimates.find_doubt(num_samples, min_fraction=0.1)


def _measure_conditional(replica: Replica, dataset: datasets.Dataset) -> ConditionalMeasures | None:
    """Measures a conditional model; None of any other."""
    if not replica.model.num_classes:
        return None
    is_digits = datasets.SOURCES[dataset.name].is_digits
    return conditional_measures.measure(
        replica.model, replica.params, replica.root_key, to_batch(dataset.test), is_digits
    )


def _print_conditional(folder: Path, measures: ConditionalMeasures) -> None:
    samples = ""
    if measures.sample_accuracies and measures.sample_accuracy is not None:
        samples = (
            f"; the digit classifier recognizes {measures.sample_accuracy:.1%} of the samples as "
            f"their class, {min(measures.sample_accuracies):.1%} in the worst one"
        )
    print(
        f"{folder}: {measures.bayes_accuracy:.2%} of the test images have the largest log p(x | y) "
        f"in their own class, {measures.num_importance_samples} importance samples{samples}"
    )


def _print_likelihood(folder: Path, measures: LikelihoodMeasures) -> None:
    bits = measures.bits_per_dimension
    print(
        f"{folder}: test -log p(x) {measures.negative_log_likelihood:.2f} ± "
        f"{measures.standard_error:.2f} nats per image"
        + (f" ({bits:.3f} bits per dimension)" if bits is not None else "")
        + f", {measures.num_importance_samples} "
        f"importance samples (effective {measures.effective_sample_size:.1f}); ELBO "
        f"{-measures.negative_elbo:.2f}, gap {measures.gap:.2f}"
    )


MODE = Mode(evaluate, flags=run_flags())
