"""Mode `evaluate`: everything that is measured of one run by itself."""

import math
import sys

import numpy as np

from vae_jax import datasets
from vae_jax.configuration import has_likelihood
from vae_jax.evaluation import (
    digit_classifier,
    generation,
    latent_statistics,
    log_likelihood,
    measures,
)
from vae_jax.evaluation.input_images import write_npy
from vae_jax.evaluation.measuring import Measurer
from vae_jax.evaluation.summary import format_summary, summarize
from vae_jax.evaluation.trained_run import Replica, TrainedRun, load_data
from vae_jax.model.rng_streams import Stream
from vae_jax.model.structs import Batch
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.runtime import devices
from vae_jax.runtime.files import write_record
from vae_jax.training.batches import to_batch
from vae_jax.training.weights import checksum, named_arrays

_NUM_SAMPLES_PER_CLASS = 1_000
_NUM_CLASS_SAMPLES = 10  # importance samples of each image in each class


@run_mode(
    *("plots", measures.SUMMARY_NAME, measures.EVALUATION_NAME, measures.LOG_LIKELIHOOD_NAME),
    log_likelihood.PARTIAL_NAME,
)
def evaluate(run: TrainedRun) -> None:
    """Writes metrics and plots of the best epoch so far; log p(x) if the loss bounds it."""
    dataset, config = load_data(run), run.config
    print(format_summary(summarize(run, dataset)))
    data = to_batch(dataset.test)
    for replica in run.replicas:
        trained = (*replica.model_and_params, replica.root_key)
        encoded = generation.encode(*replica.model_and_params, data)
        posterior = latent_statistics.posterior_measures(*trained, encoded, data)
        likelihood, doubt, measurer = None, None, Measurer()
        if has_likelihood(config.likelihood.kind, config.data.binarization):
            likelihood, doubt = _measure_likelihood(replica, dataset, run, measurer)
        conditional = _measure_conditional(replica, dataset) if replica.model.num_classes else None
        evaluation = measures.Evaluation(
            measures.UNITS, replica.step, posterior, likelihood, measurer.not_measured, conditional
        )
        write_record(replica.folder / measures.EVALUATION_NAME, evaluation)
        (replica.folder / log_likelihood.PARTIAL_NAME).unlink(missing_ok=True)
        # Only now: an error of printing must not lose the results.
        for line in _describe(evaluation, config.latent_size):
            print(f"{replica.folder}: {line}")
        if doubt:
            print(f"warning: {replica.folder}: {doubt}", file=sys.stderr)
        active = posterior.active_units
        if active is not None and latent_statistics.is_collapsed(active, config.latent_size):
            print(
                f"warning: the posterior has collapsed, only {active} of {config.latent_size} "
                "latent variables say something of the image: set loss.kl_warmup_steps or "
                "loss.free_bits, or lower loss.kl_weight",
                file=sys.stderr,
            )


def _measure_likelihood(
    replica: Replica, dataset: datasets.Dataset, run: TrainedRun, measurer: Measurer
) -> tuple[measures.LikelihoodMeasures | None, str | None]:
    """Estimates the importance-weighted likelihood of the test images; None if not finite.

    The second value is a warning if more than a tenth of the images needs more samples.
    """
    num_samples = run.config.evaluate.num_importance_samples
    is_binarized = run.config.data.binarization != "none"
    parameters = checksum(named_arrays(devices.to_host(replica.params)))
    estimates = log_likelihood.estimate(
        *replica.model_and_params,
        replica.root_key,
        to_batch(dataset.test),
        num_samples,
        replica.folder,
        identity=f"{parameters} {replica.seed} {dataset.sha256} {num_samples} balance heuristic",
    )
    values = measurer("log p(x)", np.array, np.stack([*vars(estimates).values()]))
    if values is None:
        return None, None
    write_npy(replica.folder / measures.LOG_LIKELIHOOD_NAME, estimates.log_likelihood)
    likelihood = estimates.summarize(
        num_samples,
        datasets.EVALUATION_BINARIZATION_SEED if is_binarized else None,
        math.prod(dataset.image_shape) if replica.model.likelihood.is_discrete else None,
    )
    return likelihood, estimates.find_doubt(num_samples, min_fraction=0.1)


def _measure_conditional(
    replica: Replica, dataset: datasets.Dataset
) -> measures.ConditionalMeasures:
    """Measures the classes of a conditional model; its samples too, if they are digits."""
    trained, data = (*replica.model_and_params, replica.root_key), to_batch(dataset.test)
    num_classes, accuracies = replica.model.num_classes, None
    if datasets.SOURCES[dataset.name].is_digits:
        num_images = _NUM_SAMPLES_PER_CLASS * num_classes
        labels = generation.spread_labels(num_images, num_classes)
        samples = Batch(labels=labels)
        images = generation.sample(*trained, num_images, Stream.MEASURED_SAMPLES, samples)
        predictions = digit_classifier.classify(digit_classifier.load_weights(), images)
        accuracies = (predictions.labels == labels).reshape(num_classes, -1).mean(1).tolist()
    guesses = log_likelihood.classify(*trained, data, _NUM_CLASS_SAMPLES)
    return measures.ConditionalMeasures(
        bayes_accuracy=float((guesses == data.labels).mean()),
        num_importance_samples=_NUM_CLASS_SAMPLES,
        sample_accuracy=None if accuracies is None else float(np.mean(accuracies)),
        sample_accuracies=accuracies,
    )


def _describe(evaluation: measures.Evaluation, latent_size: int) -> list[str]:
    """Returns the measures as lines to print."""
    posterior, nll = evaluation.posterior, evaluation.likelihood
    conditional = evaluation.conditional
    reasons = (posterior.not_measured or {}) | (evaluation.not_measured or {})
    lines = [f"{name} is not measured: {reason}" for name, reason in reasons.items()]
    if posterior.active_units is not None:
        lines.append(f"{posterior.active_units} of {latent_size} latent variables are active")
    if nll:
        bits = nll.bits_per_dimension
        lines.append(
            f"test -log p(x) {nll.negative_log_likelihood:.2f} ± {nll.standard_error:.2f} nats per "
            "image"
            + (f" ({bits:.3f} bits per dimension)" if bits is not None else "")
            + f", {nll.num_importance_samples} importance samples (effective "
            f"{nll.effective_sample_size:.1f}); ELBO {-nll.negative_elbo:.2f}, gap {nll.gap:.2f}"
        )
    if conditional:
        line = (
            f"{conditional.bayes_accuracy:.2%} of the test images have the largest log p(x | y) in "
            f"their own class, {conditional.num_importance_samples} importance samples"
        )
        if conditional.sample_accuracies and conditional.sample_accuracy is not None:
            line += (
                f"; the digit classifier recognizes {conditional.sample_accuracy:.1%} of the "
                f"samples as their class, {min(conditional.sample_accuracies):.1%} in the worst one"
            )
        lines.append(line)
    return lines


MODE = Mode(evaluate, flags=run_flags())
