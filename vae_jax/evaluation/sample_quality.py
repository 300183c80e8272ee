"""How good samples are, in numbers: functions of images and of their features.

Features are the digit classifier's, or principal components of images that are not digits:
`<float>[n, dims]`. Images are `<float>[n, height, width, channels]` of intensities in [0, 1]. All
distances are Euclidean.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from vae_jax.evaluation.digit_classifier import NUM_DIGITS, Predictions, classify
from vae_jax.evaluation.measures import SampleMeasures, try_measure
from vae_jax.model.vae import Params

_PRECISION_NEIGHBORS, _COVERAGE_NEIGHBORS = 3, 5
_NUM_COMPONENTS = 64
_MIN_DIGIT_FRACTION = 0.01  # of the samples, for a digit to count as present
_MIN_CONFIDENCE = 0.9  # probability of the likeliest digit, below which confidence is low
# A copy is nearer to a training image than all but this fraction of the test images are.
_COPY_QUANTILE = 0.01
_MIN_PEAK_INTENSITY = 0.5  # of an image that is not blank
_PCA_SEED = 0
_CHUNK = 1000


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Computes the squared Fréchet distance of Gaussians fitted to two sets; lower is better.

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), Heusel et al. 2017 (arXiv:1706.08500),
    equation 6. The features are not Inception's: compare with values of the same features alone.
    """
    if min(len(real), len(generated)) < 2:
        raise ValueError("a single image has no covariance")
    means = [features.mean(0, dtype=np.float64) for features in (real, generated)]
    covariances = [np.cov(features.astype(np.float64).T) for features in (real, generated)]
    # tr (C_1 C_2)^(1/2) is the trace of the root of the symmetric R C_2 R with R^2 = C_1.
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    trace = sum(np.trace(covariance) for covariance in covariances)
    offset = np.sum((means[0] - means[1]) ** 2)
    return float(max(0.0, offset + trace - 2.0 * np.sqrt(np.maximum(product, 0.0)).sum()))


def neighbor_measures(real: np.ndarray, generated: np.ndarray) -> tuple[float, float, float]:
    """Computes precision, recall and coverage of generated vectors.

    A ball reaches from a vector to its k-th nearest neighbor in the same set. Precision is the
    fraction of generated vectors in balls of real ones, recall that of real vectors in balls of
    generated ones: Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2. Coverage is the
    fraction of real balls with a generated vector: Naeem et al. 2020 (arXiv:2002.09797), section 3.
    """
    from sklearn.metrics import pairwise_distances
    from sklearn.neighbors import NearestNeighbors

    real, generated = real.astype(np.float64), generated.astype(np.float64)
    of_real, of_generated = (  # distances to the nearest neighbors, `<float>[n, k]`
        NearestNeighbors(n_neighbors=_COVERAGE_NEIGHBORS).fit(vectors).kneighbors()[0]
        for vectors in (real, generated)
    )
    near, wide = of_real[:, _PRECISION_NEIGHBORS - 1], of_real[:, -1]
    own = of_generated[:, _PRECISION_NEIGHBORS - 1, None]
    is_precise, is_recalled, is_covered = [], np.zeros(len(real), bool), np.zeros(len(real), bool)
    for start in range(0, len(generated), _CHUNK):
        rows = slice(start, start + _CHUNK)
        distances = pairwise_distances(generated[rows], real)
        is_precise.append((distances <= near).any(1))
        is_recalled |= (distances <= own[rows]).any(0)
        is_covered |= (distances <= wide).any(0)
    precision = float(np.concatenate(is_precise).mean())
    return precision, float(is_recalled.mean()), float(is_covered.mean())


def is_blank(images: np.ndarray, min_intensity: float) -> np.ndarray:
    """Returns which images sum to less than `min_intensity`, or have no pixel above one half."""
    return (images.sum((1, 2, 3)) < min_intensity) | (images.max((1, 2, 3)) < _MIN_PEAK_INTENSITY)


def nearest_distances(images: np.ndarray, training_images: np.ndarray) -> np.ndarray:
    """Computes each image's distance, over its pixels, to the nearest training image."""
    from sklearn.metrics import pairwise_distances_argmin_min  # slow to import

    flat, training = (array.reshape(len(array), -1) for array in (images, training_images))
    return pairwise_distances_argmin_min(flat, training)[1]


def sharpness(images: np.ndarray, originals: np.ndarray) -> float:
    """Computes the gradient energy of images over their originals': 1 is as sharp, less blurred.

    The energy is the sum of squared differences of neighboring pixels over all images (Subbarao et
    al. 1993).
    """

    def energy(images: np.ndarray) -> float:
        return sum(float((np.diff(images, axis=axis) ** 2).sum()) for axis in (1, 2))

    return float(np.divide(energy(images), energy(originals)))


def max_mean_step_ratio(paths: np.ndarray) -> float:
    """Averages over interpolations the longest step over the mean step: 1 is even, or no step.

    `paths` is `<float>[n, num_steps, height, width, channels]`, and steps are between the pixels of
    neighbors: a definition of this project.
    """
    if not len(paths):
        raise ValueError("there is a single image")
    steps = np.sqrt((np.diff(paths, axis=1) ** 2).sum((2, 3, 4), dtype=np.float64))
    mean, longest = steps.mean(1), steps.max(1)
    return float(np.divide(longest, mean, out=np.ones_like(mean), where=mean > 0.0).mean())


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """The real images that samples are measured against."""

    # Returns the features of images, and the digit classifier's predictions if it makes them.
    describe: Callable[[np.ndarray], tuple[np.ndarray, Predictions | None]]
    features: np.ndarray  # `<float>[n, dims]`, of the test images
    distances: np.ndarray  # `<float>[n]`, of the test images to their nearest training images
    training_images: np.ndarray  # `<float32>[n, height, width, channels]`


def make_reference(
    classifier_params: Params | None, training_images: np.ndarray, test_images: np.ndarray
) -> Reference:
    """Measures the test images once, for all samples to come.

    Images are `<float32>[n, height, width, channels]`. Without the parameters of the digit
    classifier, features are 64 principal components of the training images (Pearson 1901).
    """
    pca = None
    if classifier_params is None:
        from sklearn.decomposition import PCA  # slow to import

        flat = training_images.reshape(len(training_images), -1)
        pca = PCA(min(_NUM_COMPONENTS, *flat.shape), random_state=_PCA_SEED).fit(flat)

    def describe(images: np.ndarray) -> tuple[np.ndarray, Predictions | None]:
        if pca:
            return pca.transform(images.reshape(len(images), -1)), None
        predictions = classify(classifier_params or {}, images)
        return predictions.features, predictions

    features, distances = describe(test_images)[0], nearest_distances(test_images, training_images)
    return Reference(describe, features, distances, training_images)


def measure(reference: Reference, samples: np.ndarray) -> SampleMeasures:
    """Measures finite samples `<float>[n, height, width, channels]`, best as many as test images.

    Samples are copies by their distances to the training images, compared with those of the test
    images, after Meehan et al. 2020 (arXiv:2004.05675).
    """
    real = reference.features
    generated, predictions = reference.describe(samples)
    neighbors = try_measure("neighbors", neighbor_measures, real, generated) or (None, None, None)
    distances = nearest_distances(samples, reference.training_images)
    copy_distance = np.quantile(reference.distances, _COPY_QUANTILE)
    digits: dict[str, Any] = {}
    if predictions:
        fractions = np.bincount(predictions.labels, minlength=NUM_DIGITS) / len(samples)
        confidence = predictions.probabilities.max(-1)
        least = float(reference.training_images.sum((1, 2, 3)).min())
        digits = {
            "digits_present": int((fractions >= _MIN_DIGIT_FRACTION).sum()),
            "low_confidence_rate": float((confidence < _MIN_CONFIDENCE).mean()),
            "blank_fraction": float(is_blank(samples, least).mean()),
        }
    return SampleMeasures(
        features="digit classifier" if predictions else "principal components",
        num_samples=len(samples),
        frechet_distance=try_measure("frechet_distance", frechet_distance, real, generated),
        precision=neighbors[0],
        recall=neighbors[1],
        coverage=neighbors[2],
        copy_fraction=float((distances < copy_distance).mean()),
        **digits,
    )
