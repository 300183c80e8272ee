"""Statistics of a trained model's latent space: functions of posteriors and of their means.

Latents are `<float>[n, latent]`. A measure that its input does not define raises ValueError.
Scikit-learn is imported where it is used: it is slow to import.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluation.measures import LatentMeasures, try_measure
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import Prior

_ACTIVE_VARIANCE = 0.01  # of the posterior mean of an active latent variable, at least
_MAP_SEED = 0
_MAX_PROBE_STEPS = 1000


def active_units(mean: np.ndarray) -> int:
    """Counts the latent variables whose posterior mean varies: Cov_x(E_q(z|x)[z]) > 0.01.

    Burda et al. 2016 (arXiv:1509.00519), section 5.2.
    """
    return int((mean.var(0, dtype=np.float64) > _ACTIVE_VARIANCE).sum())


def kl_per_dimension(prior: Prior, posterior: Posterior) -> list[float]:
    """Averages each latent variable's KL from the prior over images; they sum to the KL."""
    with jax.transfer_guard("allow"):  # compiled as one, it would round otherwise
        kl = jax.tree.map(jnp.asarray, posterior).kl_per_dimension(prior)
    return np.asarray(kl, np.float64).mean(0).tolist()


def posterior_measures(prior: Prior, posterior: Posterior) -> LatentMeasures:
    """Measures the posteriors of some images against the prior."""
    kl = try_measure("kl_per_dimension", kl_per_dimension, prior, posterior)
    return LatentMeasures(active_units(posterior.mean), kl)


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
        raise ValueError(f"{len(train)} training images are too few for their classes")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MAX_PROBE_STEPS))
    predicted = probe.fit(train, train_labels).predict(test)
    return float((predicted == test_labels).mean())


def _check_spread(latents: np.ndarray) -> None:
    """Raises ValueError if the latents are equal or differ beyond single precision."""
    spread = float(np.ptp(latents.astype(np.float64), axis=0).max())
    if not 1e-15 < spread < 1e15:
        raise ValueError(f"the latent means differ by {spread:.3g}, which cannot be mapped")


def principal_plane(latents: np.ndarray) -> Any:
    """Fits the first two principal components (Pearson 1901): a `sklearn.decomposition.PCA`."""
    from sklearn.decomposition import PCA

    _check_spread(latents)
    return PCA(2, random_state=_MAP_SEED).fit(latents)


def pca_map(latents: np.ndarray) -> np.ndarray:
    """Projects latents to their principal plane, `<float>[n, 2]`."""
    return principal_plane(latents).transform(latents)


def tsne_map(latents: np.ndarray) -> np.ndarray:
    """Computes the t-SNE map, `<float>[n, 2]` (van der Maaten and Hinton 2008)."""
    from sklearn.manifold import TSNE

    _check_spread(latents)
    return TSNE(random_state=_MAP_SEED).fit_transform(latents)
