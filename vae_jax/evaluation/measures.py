"""The records of what is measured of a trained model: the JSON files of a run directory.

Losses are in nats per image; fractions and rates are in [0, 1]. Imports no JAX, so that a report
reads them at once.
"""

import dataclasses
from pathlib import Path

from vae_jax.runtime.files import read_json, to_record

SUMMARY_NAME = "summary.json"
EVALUATION_NAME = "evaluation.json"
LOG_LIKELIHOOD_NAME = "log_likelihood.npy"  # of each test image
ANALYSIS_NAME = "analysis.json"
# Of what an analysis measures and how: one of another version is made anew.
ANALYSIS_VERSION = 3


# A loss and its terms by name, averaged over every image of a split. A name that an older file
# lacks was not measured.
MeanTerms = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Summary:
    """A run's or a replica's `summary.json`; with several replicas the run's holds their means.

    Attributes:
      units: of the losses.
      best_epoch: the one with the lowest validation loss.
      best_step: the training step it ended at.
      epochs_trained: of the run, so far.
      parameters: numbers the model learns.
      validation: losses at the best epoch.
      test: losses at the best epoch.
      training_seconds: of all epochs.
      seed: the replica's.
      seeds: the run's, where there are several.
      validation_std: standard deviations over the seeds, where there are several.
      test_std: the same.
      skipped_updates: how many were not finite, where these are skipped.
      test_bits_per_dimension: the test loss in bits for each channel of each pixel, where it
        bounds -log p(x) of pixels of 256 levels.
    """

    units: str
    best_epoch: int
    best_step: int
    epochs_trained: int
    parameters: int
    validation: MeanTerms
    test: MeanTerms
    training_seconds: float
    seed: int | None = None
    seeds: list[int] | None = None
    validation_std: MeanTerms | None = None
    test_std: MeanTerms | None = None
    skipped_updates: int | None = None
    test_bits_per_dimension: float | None = None


@dataclasses.dataclass(frozen=True)
class PosteriorMeasures:
    """Measures of the posteriors of a split's images.

    Attributes:
      active_units: latent variables whose posterior mean varies over the images.
      kl_per_dimension: KL of each latent variable, averaged over images; they sum to the KL.
      aggregate_mean: mean of each latent variable over all images' posteriors together.
      aggregate_variance: variance of each, likewise.
      not_measured: why measures are None, by name, where any is.
    """

    active_units: int | None
    kl_per_dimension: list[float] | None
    aggregate_mean: list[float] | None
    aggregate_variance: list[float] | None
    not_measured: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class LikelihoodMeasures:
    """The importance-weighted estimate of -log p(x), averaged over a split's images.

    Attributes:
      negative_log_likelihood: the estimate.
      standard_error: of it, over the images.
      negative_elbo: from the same samples.
      gap: by how much the ELBO falls short of the estimate.
      effective_sample_size: equal weights that would be worth as much, of each image's samples.
      num_images: of the split.
      num_importance_samples: of each image.
      binarization_seed: of the images' pixels; None where none are drawn.
      bits_per_dimension: the estimate in bits for each channel of each pixel, where pixels have
        256 levels; None where they do not.
    """

    negative_log_likelihood: float
    standard_error: float
    negative_elbo: float
    gap: float
    effective_sample_size: float
    num_images: int
    num_importance_samples: int
    binarization_seed: int | None = None
    bits_per_dimension: float | None = None


@dataclasses.dataclass(frozen=True)
class ConditionalMeasures:
    """Measures of a conditional model.

    Attributes:
      bayes_accuracy: fraction of the test images whose own class has the largest log p(x | y).
      num_importance_samples: of each image in each class, for log p(x | y).
      sample_accuracy: fraction of samples that the digit classifier takes for their class; None
        where the images are no digits, like the next one.
      sample_accuracies: the same for each class.
    """

    bayes_accuracy: float
    num_importance_samples: int
    sample_accuracy: float | None = None
    sample_accuracies: list[float] | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A replica's `evaluation.json`: what mode `evaluate` measures on the test images.

    Attributes:
      units: of the losses.
      best_step: of the parameters that were measured.
      posterior: measures of the posteriors.
      likelihood: where the loss is one.
      not_measured: why the likelihood is not there though the loss is one.
      conditional: of a conditional model.
    """

    units: str
    best_step: int
    posterior: PosteriorMeasures
    likelihood: LikelihoodMeasures | None = None
    not_measured: dict[str, str] | None = None
    conditional: ConditionalMeasures | None = None


@dataclasses.dataclass(frozen=True)
class LatentMeasures:
    """Measures of the latent means of the test images.

    Attributes:
      active_units: as in `PosteriorMeasures`.
      kl_per_dimension: as in `PosteriorMeasures`.
      probe_accuracy: of a linear classifier of the labels; None where there are none.
      not_measured: as in `PosteriorMeasures`; of the maps too.
    """

    active_units: int | None
    kl_per_dimension: list[float] | None
    probe_accuracy: float | None = None
    not_measured: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class ReconstructionMeasures:
    """Measures of the test images' reconstructions.

    Attributes:
      mean_squared_error: of the intensities.
      sharpness: gradient energy relative to the originals'.
      classifier_accuracy: of the digit classifier on them; None where the images are no digits.
      not_measured: as in `PosteriorMeasures`.
    """

    mean_squared_error: float | None
    sharpness: float | None
    classifier_accuracy: float | None = None
    not_measured: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class InterpolationMeasures:
    """Measures of interpolations between test images.

    Attributes:
      max_mean_step_ratio: the longest step over the mean step, in pixels' distance: 1 is even.
      mean_confidence: of the digit classifier between the ends; None where there are no digits.
      not_measured: as in `PosteriorMeasures`.
    """

    max_mean_step_ratio: float | None
    mean_confidence: float | None = None
    not_measured: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class SampleMeasures:
    """Measures of samples against the test images: see `sample_quality.py` for each.

    Attributes:
      features: what distances are taken in: "digit classifier" or "principal components".
      num_samples: how many were measured.
      frechet_distance: of Gaussians fitted to the features; lower is better.
      precision: fraction of samples among the real images.
      recall: fraction of real images among the samples.
      density: in how many real neighborhoods a sample lies; 1 is as real.
      coverage: fraction of real neighborhoods with a sample.
      copy_fraction: fraction of samples nearer to a training image than nearly all test images.
      nearest_distance_ratio: median distance to the training images, over the test images'.
      class_fractions: fraction of the samples in each class; this and what follows are the digit
        classifier's, None where the images are no digits.
      class_kl: of these from the test images', in nats.
      digits_present: classes with a hundredth of the samples or more.
      mean_confidence: of the classifier.
      low_confidence_rate: fraction of samples to no class of which it gives 0.9.
      blank_fraction: fraction of samples that show nothing.
      not_measured: as in `PosteriorMeasures`.
    """

    features: str
    num_samples: int
    frechet_distance: float | None
    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    copy_fraction: float
    nearest_distance_ratio: float | None
    class_fractions: list[float] | None = None
    class_kl: float | None = None
    digits_present: int | None = None
    mean_confidence: float | None = None
    low_confidence_rate: float | None = None
    blank_fraction: float | None = None
    not_measured: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A replica's `analysis.json`: what a report measures of a model beyond its loss.

    Attributes:
      version: `ANALYSIS_VERSION` when it was made.
      best_step: of the parameters that were measured.
      latents: of the test images.
      reconstructions: of the test images.
      interpolations: between test images.
      samples: measured against the test images.
      ceiling: the same of training images in the samples' place.
      not_measured: why `samples` or `ceiling` is None.
    """

    version: int
    best_step: int
    latents: LatentMeasures
    reconstructions: ReconstructionMeasures
    interpolations: InterpolationMeasures
    samples: SampleMeasures | None = None
    ceiling: SampleMeasures | None = None
    not_measured: dict[str, str] | None = None

    def reasons(self) -> dict[str, str]:
        """Returns why each measure that is missing is, by its dotted name."""
        reasons = dict(self.not_measured or {})
        for name, part in vars(self).items():
            for measure, reason in (getattr(part, "not_measured", None) or {}).items():
                reasons[f"{name}.{measure}"] = reason
        return reasons


def read_analysis(folder: Path, best_step: int) -> Analysis | None:
    """Reads a replica's analysis; None where there is none of that step and today's version.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / ANALYSIS_NAME
    value = read_json(path) if path.exists() else None
    of = isinstance(value, dict) and (value.get("version"), value.get("best_step"))
    return to_record(path, value, Analysis) if of == (ANALYSIS_VERSION, best_step) else None
