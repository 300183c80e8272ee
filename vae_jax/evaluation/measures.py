"""The records of the measures of a trained model, the JSON files of a run, and how they are made.

Losses are in nats per image; fractions and rates are in [0, 1]. Measures of older files that are
not here are ignored. Imports no JAX, so that a report reads them at once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

SUMMARY_NAME = "summary.json"
EVALUATION_NAME = "evaluation.json"
LOG_LIKELIHOOD_NAME = "log_likelihood.npy"  # of each test image
ANALYSIS_NAME = "analysis.json"
# Version of the measures in an analysis: an analysis of another version is made again.
ANALYSIS_VERSION = 3
UNITS = "nats per image"

Value = TypeVar("Value")

# A loss and its terms by name, averaged over every image of a split. A name that an older file
# lacks was not measured.
MeanTerms = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Summary:
    """A run's or a replica's `summary.json`; with several replicas the run's holds their means."""

    units: str
    best_epoch: int  # the epoch with the lowest validation loss
    best_step: int  # the training step it ended at
    epochs_trained: int
    parameters: int  # numbers the model learns
    validation: MeanTerms  # at the best epoch
    test: MeanTerms  # at the best epoch
    training_seconds: float
    seed: int | None = None  # of a replica, or of a run with one seed
    seeds: list[int] | None = None  # of a run with several replicas
    validation_std: MeanTerms | None = None  # standard deviations over the seeds
    test_std: MeanTerms | None = None
    skipped_updates: int | None = None  # updates that were not finite, if these are skipped
    # The test loss in bits for each channel of each pixel, if it bounds -log p(x) of pixels of
    # 256 levels.
    test_bits_per_dimension: float | None = None


@dataclasses.dataclass(frozen=True)
class LatentMeasures:
    """Measures of the posteriors of the test images."""

    active_units: int  # latent variables whose posterior mean varies over the images
    kl_per_dimension: list[float] | None  # averaged over images; sums to the KL of the loss
    probe_accuracy: float | None = None  # of a linear classifier of the labels on the means


@dataclasses.dataclass(frozen=True)
class LikelihoodMeasures:
    """The importance-weighted estimate of -log p(x), averaged over a split's images."""

    negative_log_likelihood: float
    standard_error: float  # of the estimate, over the images
    negative_elbo: float  # from the same samples
    gap: float  # negative_elbo - negative_log_likelihood
    effective_sample_size: float  # the number of equal weights that are worth as much
    num_images: int
    num_importance_samples: int  # of each image
    binarization_seed: int | None = None  # of the images' pixels, if these are drawn
    bits_per_dimension: float | None = None  # the estimate, if pixels have 256 levels


@dataclasses.dataclass(frozen=True)
class ConditionalMeasures:
    """Measures of a conditional model."""

    bayes_accuracy: float  # fraction of test images whose own class has the largest log p(x | y)
    num_importance_samples: int  # of each image in each class
    # Fraction of samples that the digit classifier recognizes as their class; of digits only.
    sample_accuracy: float | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A replica's `evaluation.json`: measures of mode `evaluate` on the test images."""

    units: str
    best_step: int  # of the parameters that were measured
    posterior: LatentMeasures
    likelihood: LikelihoodMeasures | None = None  # if the loss bounds one
    conditional: ConditionalMeasures | None = None  # of a conditional model


@dataclasses.dataclass(frozen=True)
class ReconstructionMeasures:
    """Measures of the test images' reconstructions."""

    mean_squared_error: float  # of the intensities
    sharpness: float | None  # gradient energy relative to the originals'
    classifier_accuracy: float | None = None  # of the digit classifier on them; of digits only


@dataclasses.dataclass(frozen=True)
class InterpolationMeasures:
    """Measures of interpolations between test images."""

    max_mean_step_ratio: float | None  # longest step over mean step, between pixels: 1 is even


@dataclasses.dataclass(frozen=True)
class SampleMeasures:
    """Measures of samples against the test images: `sample_quality.py` defines them."""

    features: str  # "digit classifier" or "principal components"
    num_samples: int
    frechet_distance: float | None
    precision: float | None
    recall: float | None
    coverage: float | None
    copy_fraction: float
    # By the digit classifier, of digits only.
    digits_present: int | None = None
    low_confidence_rate: float | None = None
    blank_fraction: float | None = None


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A replica's `analysis.json`: a report's measures of a model beyond its loss."""

    version: int  # `ANALYSIS_VERSION` when it was made
    best_step: int  # of the parameters that were measured
    latents: LatentMeasures
    reconstructions: ReconstructionMeasures
    interpolations: InterpolationMeasures
    samples: SampleMeasures | None = None
    ceiling: SampleMeasures | None = None  # of training images in the samples' place


def try_measure(name: str, function: Callable[..., Value], *inputs: Any) -> Value | None:
    """Returns `function(*inputs)`, numbers; prints why and returns None if they are undefined.

    The function raises ValueError if its inputs do not define them.
    """
    try:
        with np.errstate(all="ignore"):
            value = function(*inputs)
        if np.isfinite(np.asarray(value)).all():
            return value
        reason = "it is not finite"
    except ValueError as error:
        reason = str(error).partition("\n")[0]
    print(f"{name} is not measured: {reason}")
    return None
