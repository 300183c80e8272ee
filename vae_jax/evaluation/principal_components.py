"""Features of images that no classifier knows: their principal components."""

import dataclasses

import numpy as np

NUM_COMPONENTS = 64
_SEED = 0
_CHUNK = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """The directions in which training images vary most (Pearson 1901).

    Attributes:
      mean: `<float32>[pixels]`, of the training images.
      directions: `<float32>[components, pixels]`, orthonormal.
    """

    mean: np.ndarray
    directions: np.ndarray

    def features(self, images: np.ndarray) -> np.ndarray:
        """Projects images `<float>[n, height, width, channels]`: `<float32>[n, components]`."""
        flat = images.reshape(len(images), -1)
        chunks = (flat[start : start + _CHUNK] for start in range(0, len(flat), _CHUNK))
        return np.concatenate([(chunk - self.mean) @ self.directions.T for chunk in chunks])


def fit(images: np.ndarray) -> PrincipalComponents:
    """Finds the first 64 components of training images, or as many as there are.

    Args:
      images: `<float32>[n, height, width, channels]`, intensities in [0, 1].
    """
    from sklearn.decomposition import PCA  # slow to import

    flat = images.reshape(len(images), -1)
    with np.errstate(invalid="ignore"):  # fractions of no variance, which are not used
        pca = PCA(min(NUM_COMPONENTS, *flat.shape), random_state=_SEED).fit(flat)
    return PrincipalComponents(pca.mean_, pca.components_)
