"""Statistics of a trained model's latent space: functions of posteriors and of their means.

Latents are `<float>[n, latent]`. A measure that its input does not define raises NotMeasured, or
ValueError of scikit-learn, which is imported where it is used: it is slow to import.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluation.measures import LatentMeasures, Measurer, NotMeasured
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import ClosedFormPrior, Prior

_ACTIVE_VARIANCE = 0.01  # of the posterior mean of an active latent variable, at least
_MAP_SEED = 0
_MAX_PROBE_STEPS = 1000
_NUM_NEIGHBORS = 30  # the perplexity of t-SNE


def active_units(mean: np.ndarray) -> int:
    """Counts the latent variables whose posterior mean varies: Cov_x(E_q(z|x)[z]) > 0.01.

    Burda et al. 2016 (arXiv:1509.00519), section 5.2.
    """
    return int((mean.var(0, dtype=np.float64) > _ACTIVE_VARIANCE).sum())


def kl_per_dimension(prior: Prior, posterior: Posterior) -> list[float]:
    """Averages each latent variable's KL from the prior over images; they sum to the KL."""
    if not isinstance(prior, ClosedFormPrior):
        raise NotMeasured("the KL from this prior is that of whole latent vectors")
    with jax.transfer_guard("allow"):  # compiled as one, it would round otherwise
        kl = jax.tree.map(jnp.asarray, posterior).kl_per_dimension(prior)
    return np.asarray(kl, np.float64).mean(0).tolist()


def posterior_measures(prior: Prior, posterior: Posterior) -> LatentMeasures:
    """Measures the posteriors of some images against the prior."""
    measure, arrays = Measurer(), posterior.to_arrays().values()
    return LatentMeasures(
        active_units=measure("active_units", active_units, posterior.mean),
        kl_per_dimension=measure(
            "kl_per_dimension", lambda *_: kl_per_dimension(prior, posterior), *arrays
        ),
        not_measured=measure.not_measured,
    )


def linear_probe(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Computes the accuracy of a linear classifier of the label on the latents.

    Multinomial logistic regression (scikit-learn, L2 weight 1) on standardized latents; the
    linear classifier probe of Alain and Bengio 2016 (arXiv:1610.01644).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if 2 * len(np.unique(train_labels)) > len(train):
        raise NotMeasured(f"{len(train)} training images are too few for their classes")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MAX_PROBE_STEPS))
    predicted = probe.fit(train, train_labels).predict(test)
    return float((predicted == test_labels).mean())


def _check_spread(latents: np.ndarray) -> None:
    """Raises NotMeasured if the latents are equal or differ beyond single precision."""
    spread = float(np.ptp(latents.astype(np.float64), axis=0).max())
    if not 1e-15 < spread < 1e15:
        raise NotMeasured(f"the latent means differ by {spread:.3g}, which cannot be mapped")


@dataclasses.dataclass(frozen=True, eq=False)
class Plane:
    """A plane through the latent space."""

    center: np.ndarray  # `<float32>[latent]`, where both coordinates are 0
    directions: np.ndarray  # `<float32>[2, latent]`, orthonormal; zero without a second dimension
    variance_fraction: float  # of the latents' variance, the part in the plane

    def project(self, latents: np.ndarray) -> np.ndarray:
        """Returns the coordinates of the nearest places of the plane, `<float32>[n, 2]`."""
        return (latents - self.center) @ self.directions.T

    def latents_at(self, places: np.ndarray) -> np.ndarray:
        """Returns the latents `<float32>[n, latent]` at coordinates `<float>[n, 2]`."""
        return self.center + places.astype(np.float32) @ self.directions


def principal_plane(latents: np.ndarray) -> Plane:
    """Finds the plane of the first two principal components; all of one or two dimensions."""
    from sklearn.decomposition import PCA

    _check_spread(latents)
    size = latents.shape[1]
    if size <= 2:
        return Plane(np.zeros(size, np.float32), np.eye(2, size, dtype=np.float32), 1.0)
    pca = PCA(2, random_state=_MAP_SEED).fit(latents)
    return Plane(pca.mean_, pca.components_, float(pca.explained_variance_ratio_.sum()))


def pca_map(latents: np.ndarray) -> np.ndarray:
    """Projects latents to their principal plane, `<float>[n, 2]` (Pearson 1901)."""
    return principal_plane(latents).project(latents)


def tsne_map(latents: np.ndarray) -> np.ndarray:
    """Computes the t-SNE map, `<float>[n, 2]` (van der Maaten and Hinton 2008)."""
    from sklearn.manifold import TSNE

    _check_spread(latents)
    init = "pca" if latents.shape[1] > 1 else "random"
    tsne = TSNE(perplexity=_NUM_NEIGHBORS, random_state=_MAP_SEED, init=init)
    return tsne.fit_transform(latents)
