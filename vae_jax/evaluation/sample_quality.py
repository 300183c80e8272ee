"""How good samples are, in numbers: functions of images and of their features.

Features are the digit classifier's, or principal components of images that are not digits:
`<float>[n, dims]`. Images are `<float>[n, height, width, channels]` of intensities in [0, 1]. All
distances are Euclidean. A measure that its input does not define raises NotMeasured.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from vae_jax.evaluation.digit_classifier import NUM_DIGITS, Predictions, classify
from vae_jax.evaluation.measures import SampleMeasures
from vae_jax.evaluation.measuring import Measurer, NotMeasured
from vae_jax.model.vae import Params

PRECISION_RECALL_NEIGHBORS = 3
DENSITY_COVERAGE_NEIGHBORS = 5
NUM_COMPONENTS = 64
MIN_DIGIT_FRACTION = 0.01  # of the samples, for a digit to count as present
MIN_CONFIDENCE = 0.9  # probability of the likeliest digit, below which confidence is low
# A copy is nearer to a training image than all but this fraction of the test images are.
COPY_QUANTILE = 0.01
_MIN_PEAK_INTENSITY = 0.5  # of an image that is not blank
_PCA_SEED = 0
_CHUNK = 1000


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Computes the `<float>[n, m]` distances between two sets of vectors."""
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2.0 * first @ second.T
    return np.sqrt(np.maximum(squares, 0.0))


def _chunks(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + _CHUNK] for start in range(0, len(array), _CHUNK)]


def _radii(features: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Computes each vector's distance to its k-th nearest neighbor in the same set."""
    if len(features) <= num_neighbors:
        raise NotMeasured(f"{len(features)} images have no {num_neighbors} neighbors each")
    nearest = [np.partition(_distances(c, features), num_neighbors, 1) for c in _chunks(features)]
    return np.concatenate([chunk[:, num_neighbors] for chunk in nearest])  # column 0 is itself


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Computes the squared Fréchet distance of Gaussians fitted to two sets; lower is better.

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), Heusel et al. 2017 (arXiv:1706.08500),
    equation 6. The features are not Inception's: compare with values of the same features alone.
    """
    if min(len(real), len(generated)) < 2:
        raise NotMeasured("a single image has no covariance")
    means = [features.mean(0, dtype=np.float64) for features in (real, generated)]
    covariances = [np.cov(features.astype(np.float64).T) for features in (real, generated)]
    # tr (C_1 C_2)^(1/2) is the trace of the root of the symmetric R C_2 R with R^2 = C_1.
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    trace = sum(np.trace(covariance) for covariance in covariances)
    offset = np.sum((means[0] - means[1]) ** 2)
    return float(max(0.0, offset + trace - 2.0 * np.sqrt(np.maximum(product, 0.0)).sum()))


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, num_neighbors: int = PRECISION_RECALL_NEIGHBORS
) -> tuple[float, float]:
    """Computes the fractions of generated vectors among the real, and the other way round.

    A vector is among a set if it is as near to a member as the member's k-th nearest neighbor in
    the set. Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2.
    """
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    radii = [_radii(features, num_neighbors) for features in (real, generated)]
    precise, recalled = [], np.zeros(len(real), bool)
    for chunk, chunk_radii in zip(_chunks(generated), _chunks(radii[1]), strict=True):
        distances = _distances(chunk, real)
        precise.append((distances <= radii[0]).any(1))
        recalled |= (distances <= chunk_radii[:, None]).any(0)
    return float(np.concatenate(precise).mean()), float(recalled.mean())


def density_and_coverage(
    real: np.ndarray, generated: np.ndarray, num_neighbors: int = DENSITY_COVERAGE_NEIGHBORS
) -> tuple[float, float]:
    """Computes in how many real vectors' balls a generated one lies, over k, and the balls hit.

    Density is 1 for real vectors and more if they crowd; coverage is a fraction. Naeem et al. 2020
    (arXiv:2002.09797), section 3.
    """
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    radii = _radii(real, num_neighbors)
    count, covered = 0, np.zeros(len(real), bool)
    for chunk in _chunks(generated):
        inside = _distances(chunk, real) <= radii
        count += int(inside.sum())
        covered |= inside.any(0)
    return count / (num_neighbors * len(generated)), float(covered.mean())


def categorical_kl(fractions: np.ndarray, reference: np.ndarray) -> float:
    """Computes KL(fractions || reference) in nats."""
    present = fractions > 0.0
    if not reference[present].all():
        raise NotMeasured("it is infinite: the test images lack a class that the samples have")
    ratio = np.log(fractions[present]) - np.log(reference[present])
    return float((fractions[present] * ratio).sum())


def is_blank(images: np.ndarray, min_intensity: float) -> np.ndarray:
    """Returns which images are blank, `<bool>[n]`: a definition of this project.

    Their pixels sum to less than `min_intensity`, or none reaches half of the full intensity.
    """
    return (images.sum((1, 2, 3)) < min_intensity) | (images.max((1, 2, 3)) < _MIN_PEAK_INTENSITY)


def nearest_distances(images: np.ndarray, training_images: np.ndarray) -> np.ndarray:
    """Computes each image's distance, over its pixels, to the nearest training image."""
    flat, training = (
        array.reshape(len(array), -1).astype(np.float32) for array in (images, training_images)
    )
    # In place, because it takes longest of all.
    minus_double, squares = -2.0 * training.T, (training**2).sum(1)
    nearest = []
    for chunk in _chunks(flat):
        relative = chunk @ minus_double
        relative += squares
        nearest.append(relative.min(1) + (chunk**2).sum(1))
    return np.sqrt(np.maximum(np.concatenate(nearest), 0.0))


def sharpness(images: np.ndarray, originals: np.ndarray) -> float:
    """Computes the gradient energy of images over their originals': 1 is as sharp, less blurred.

    The energy is the sum of squared differences of neighboring pixels over all images (Subbarao et
    al. 1993).
    """

    def energy(images: np.ndarray) -> float:
        return sum(float((np.diff(images, axis=axis) ** 2).sum()) for axis in (1, 2))

    of_originals = energy(originals)
    if not of_originals:
        raise NotMeasured("the originals have no gradients")
    return energy(images) / of_originals


def max_mean_step_ratio(paths: np.ndarray) -> float:
    """Averages over interpolations the longest step over the mean step: 1 is even, or no step.

    `paths` is `<float>[n, num_steps, height, width, channels]`. The perceptual path length of
    Karras et al. 2019 looks at such steps too; this ratio, of distances between the pixels of
    neighbors, is a definition of this project.
    """
    steps = np.sqrt((np.diff(paths, axis=1) ** 2).sum((2, 3, 4), dtype=np.float64))
    mean, longest = steps.mean(1), steps.max(1)
    return float(np.divide(longest, mean, out=np.ones_like(mean), where=mean > 0.0).mean())


# Returns the features of images, and the digit classifier's predictions if it makes them.
Describe = Callable[[np.ndarray], tuple[np.ndarray, Predictions | None]]


def fit_components(training_images: np.ndarray) -> Describe:
    """Finds 64 principal components (Pearson 1901), or as many as there are, as features."""
    from sklearn.decomposition import PCA  # slow to import

    flat = training_images.reshape(len(training_images), -1)
    with np.errstate(invalid="ignore"):  # fractions of a variance of 0, which are not used
        pca = PCA(min(NUM_COMPONENTS, *flat.shape), random_state=_PCA_SEED).fit(flat)

    def describe(images: np.ndarray) -> tuple[np.ndarray, None]:
        chunks = _chunks(images.reshape(len(images), -1))
        return np.concatenate([(each - pca.mean_) @ pca.components_.T for each in chunks]), None

    return describe


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """The real images that samples are measured against."""

    classifier_params: Params | None  # the digit classifier's; None if the images are not digits
    describe: Describe
    features: np.ndarray  # `<float>[n, dims]`, of the test images
    predictions: Predictions | None  # for the test images
    training_images: np.ndarray  # `<float32>[n, height, width, channels]`
    copy_distance: float  # a sample nearer than this to a training image counts as its copy
    median_distance: float  # of the test images to their nearest training images
    min_intensity: float  # sum of the training image with the least


def make_reference(
    classifier_params: Params | None, training_images: np.ndarray, test_images: np.ndarray
) -> Reference:
    """Measures the test images once, for all samples to come.

    Both sets of images are `<float32>[n, height, width, channels]`. Without the parameters of the
    digit classifier, features are principal components.
    """

    def describe_digits(images: np.ndarray) -> tuple[np.ndarray, Predictions]:
        predictions = classify(classifier_params or {}, images)
        return predictions.features, predictions

    describe = fit_components(training_images) if classifier_params is None else describe_digits
    features, predictions = describe(test_images)
    distances = nearest_distances(test_images, training_images)
    return Reference(
        classifier_params=classifier_params,
        describe=describe,
        features=features,
        predictions=predictions,
        training_images=training_images,
        copy_distance=float(np.quantile(distances, COPY_QUANTILE)),
        median_distance=float(np.median(distances)),
        min_intensity=float(training_images.sum((1, 2, 3)).min()),
    )


def measure(reference: Reference, samples: np.ndarray) -> SampleMeasures:
    """Measures finite samples `<float>[n, height, width, channels]`, best as many as test images.

    Samples are copies by their distances to the training images, compared with those of the test
    images, after Meehan et al. 2020 (arXiv:2004.05675).
    """
    real = reference.features
    generated, predictions = reference.describe(samples)
    distances = nearest_distances(samples, reference.training_images)
    measured, neither = Measurer(), (None, None)

    def distance_ratio() -> float:
        if not reference.median_distance:
            raise NotMeasured("most test images are training images too")
        return float(np.median(distances)) / reference.median_distance

    among = measured("precision, recall", precision_and_recall, real, generated) or neither
    balls = measured("density, coverage", density_and_coverage, real, generated) or neither
    classes: dict[str, Any] = {}
    if reference.predictions and predictions:
        fractions, real_fractions = (
            np.bincount(each.labels, minlength=NUM_DIGITS) / len(each.labels)
            for each in (predictions, reference.predictions)
        )
        classes = {
            "class_fractions": fractions.tolist(),
            "class_kl": measured("class_kl", categorical_kl, fractions, real_fractions),
            "digits_present": int((fractions >= MIN_DIGIT_FRACTION).sum()),
            "mean_confidence": float(predictions.confidence.mean(dtype=np.float64)),
            "low_confidence_rate": float((predictions.confidence < MIN_CONFIDENCE).mean()),
            "blank_fraction": float(is_blank(samples, reference.min_intensity).mean()),
        }
    return SampleMeasures(
        features="principal components" if predictions is None else "digit classifier",
        num_samples=len(samples),
        frechet_distance=measured("frechet_distance", frechet_distance, real, generated),
        precision=among[0],
        recall=among[1],
        density=balls[0],
        coverage=balls[1],
        copy_fraction=float((distances < reference.copy_distance).mean()),
        nearest_distance_ratio=measured("nearest_distance_ratio", distance_ratio),
        **classes,
        not_measured=measured.not_measured,
    )
