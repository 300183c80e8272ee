"""Mode `evaluate`: everything that is measured of one run by itself."""

import math
import sys

from vae_jax import datasets
from vae_jax.configuration import has_likelihood
from vae_jax.evaluation import (
    digit_classifier,
    generation,
    latent_statistics,
    log_likelihood,
    measures,
)
from vae_jax.evaluation.image_output import write_npy
from vae_jax.evaluation.summary import format_summary, summarize
from vae_jax.evaluation.trained_run import Replica, TrainedRun, load_data
from vae_jax.model.rng_streams import Stream
from vae_jax.model.structs import Batch
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.runtime.files import write_record
from vae_jax.training.batches import to_batch

_NUM_SAMPLES_PER_CLASS = 1_000
_NUM_CLASS_SAMPLES = 10  # importance samples of each image in each class
_COLLAPSED_FRACTION = 0.1  # of active latent variables, below which the posterior has collapsed


@run_mode("plots", measures.SUMMARY_NAME, measures.EVALUATION_NAME, measures.LOG_LIKELIHOOD_NAME)
def evaluate(run: TrainedRun) -> None:
    """Writes metrics and plots of the best epoch so far; log p(x) if the loss bounds it."""
    dataset, config = load_data(run), run.config
    print(format_summary(summarize(run, dataset)))
    for replica in run.replicas:
        encoded = generation.encode(*replica.model_and_params, to_batch(dataset.test))
        posterior = latent_statistics.posterior_measures(replica.model.prior, encoded)
        likelihood = None
        if has_likelihood(config.likelihood.kind, config.data.binarization):
            likelihood = _measure_likelihood(replica, dataset, run)
        conditional = _measure_conditional(replica, dataset) if replica.model.num_classes else None
        evaluation = measures.Evaluation(
            measures.UNITS, replica.step, posterior, likelihood, conditional=conditional
        )
        write_record(replica.folder / measures.EVALUATION_NAME, evaluation)
        # Only now: an error of printing must not lose the results.
        _report(replica, evaluation, config.latent_size)


def _measure_likelihood(
    replica: Replica, dataset: datasets.Dataset, run: TrainedRun
) -> measures.LikelihoodMeasures:
    """Estimates the importance-weighted likelihood of the test images."""
    num_samples = run.config.evaluate.num_importance_samples
    trained = (*replica.model_and_params, replica.root_key)
    estimates = log_likelihood.estimate(*trained, to_batch(dataset.test), num_samples)
    write_npy(replica.folder / measures.LOG_LIKELIHOOD_NAME, estimates.log_likelihood)
    is_binarized = run.config.data.binarization != "none"
    return estimates.summarize(
        num_samples,
        datasets.EVALUATION_BINARIZATION_SEED if is_binarized else None,
        math.prod(dataset.image_shape) if replica.model.likelihood.is_discrete else None,
    )


def _measure_conditional(
    replica: Replica, dataset: datasets.Dataset
) -> measures.ConditionalMeasures:
    """Measures the classes of a conditional model; its samples too, if they are digits."""
    trained, data = (*replica.model_and_params, replica.root_key), to_batch(dataset.test)
    num_classes, accuracy = replica.model.num_classes, None
    if datasets.SOURCES[dataset.name].is_digits:
        num_images = _NUM_SAMPLES_PER_CLASS * num_classes
        labels = generation.spread_labels(num_images, num_classes)
        samples = Batch(labels=labels)
        images = generation.sample(*trained, num_images, Stream.MEASURED_SAMPLES, samples)
        predictions = digit_classifier.classify(digit_classifier.load_weights(), images)
        accuracy = float((predictions.labels == labels).mean())
    guesses = log_likelihood.classify(*trained, data, _NUM_CLASS_SAMPLES)
    return measures.ConditionalMeasures(
        bayes_accuracy=float((guesses == data.labels).mean()),
        num_importance_samples=_NUM_CLASS_SAMPLES,
        sample_accuracy=accuracy,
    )


def _report(replica: Replica, evaluation: measures.Evaluation, latent_size: int) -> None:
    """Prints the measures; warns of a collapsed posterior."""
    posterior, nll = evaluation.posterior, evaluation.likelihood
    if nll:
        print(
            f"{replica.folder}: test -log p(x) {nll.negative_log_likelihood:.2f} ± "
            f"{nll.standard_error:.2f} nats per image, {nll.num_importance_samples} importance "
            f"samples (effective {nll.effective_sample_size:.1f}); ELBO {-nll.negative_elbo:.2f}, "
            f"gap {nll.gap:.2f}"
        )
    if evaluation.conditional:
        for name, value in vars(evaluation.conditional).items():
            print(f"{replica.folder}: {name} {value}")
    active = posterior.active_units
    print(f"{replica.folder}: {active} of {latent_size} latent variables are active")
    if active < _COLLAPSED_FRACTION * latent_size:
        print(
            f"warning: {replica.folder}: the posterior has collapsed, only {active} of "
            f"{latent_size} latent variables are active; set loss.kl_warmup_steps or "
            "loss.free_bits, or lower loss.kl_weight",
            file=sys.stderr,
        )


MODE = Mode(evaluate, flags=run_flags())
