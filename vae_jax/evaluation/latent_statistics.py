"""Statistics of a trained model's latent space: functions of posteriors and of their means.

Latents are `<float>[n, latent]`. A measure that its input does not define raises NotMeasured.
scikit-learn is imported where it is used: it is slow to import.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluation import generation
from vae_jax.evaluation.measures import PosteriorMeasures
from vae_jax.evaluation.measuring import Measurer, NotMeasured
from vae_jax.model.posterior import Posterior
from vae_jax.model.priors import ClosedFormPrior, FlowPrior, Prior
from vae_jax.model.rng_streams import Stream, stream_key
from vae_jax.model.structs import Batch
from vae_jax.model.vae import VAE, Params
from vae_jax.runtime import devices

_ACTIVE_VARIANCE = 0.01  # of the posterior mean of an active latent variable, at least
_COLLAPSED_FRACTION = 0.1  # of active latent variables, below which the posterior has collapsed
_MAP_SEED = 0
_MAX_PROBE_STEPS = 1000
_NUM_NEIGHBORS = 30  # the perplexity of t-SNE
_SPREADS = (1e-15, 1e15)  # between which the squares of latents stay in single precision


def active_units(mean: np.ndarray) -> int:
    """Counts the latent variables whose posterior mean varies: Cov_x(E_q(z|x)[z]) > 0.01.

    Burda et al. 2016 (arXiv:1509.00519), section 5.2.
    """
    return int((mean.var(0, dtype=np.float64) > _ACTIVE_VARIANCE).sum())


def is_collapsed(num_active: int, latent_size: int) -> bool:
    """Returns whether active units are so few that they describe next to nothing of an image."""
    return num_active < _COLLAPSED_FRACTION * latent_size


def kl_per_dimension(prior: Prior, posterior: Posterior) -> list[float]:
    """Averages each latent variable's KL from the prior over images; they sum to the KL."""
    if not isinstance(prior, ClosedFormPrior):
        raise NotMeasured("the KL from this prior is that of whole latent vectors")
    with jax.transfer_guard("allow"):  # compiled as one, it would round otherwise
        kl = jax.tree.map(jnp.asarray, posterior).kl_per_dimension(prior)
    return np.asarray(kl, np.float64).mean(0).tolist()


@jax.jit
def _draw(root_key: jax.Array, posterior: Posterior) -> jax.Array:
    return posterior.sample(stream_key(root_key, Stream.EVALUATION)).latents


def posterior_measures(
    model: VAE, params: Params, root_key: jax.Array, posterior: Posterior, data: Batch
) -> PosteriorMeasures:
    """Measures the posteriors of the data against the prior, the moments in its base space."""
    measure = Measurer()

    @functools.cache
    def moments() -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(model.prior, FlowPrior):
            return posterior.aggregate_moments()
        samples = devices.to_host(_draw(root_key, devices.to_device(posterior)))
        base = generation.to_base(model, params, samples, data)
        return base.mean(0, dtype=np.float64), base.var(0, dtype=np.float64)

    def kl(*_: np.ndarray) -> list[float]:
        return kl_per_dimension(model.prior, posterior)

    return PosteriorMeasures(
        active_units=measure("active_units", active_units, posterior.mean),
        kl_per_dimension=measure("kl_per_dimension", kl, *posterior.to_arrays().values()),
        aggregate_mean=measure("aggregate_mean", lambda: moments()[0].tolist()),
        aggregate_variance=measure("aggregate_variance", lambda: moments()[1].tolist()),
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

    num_classes = len(np.unique(train_labels))
    if num_classes < 2:
        raise NotMeasured("the training images are of one class")
    if 2 * num_classes > len(train):
        raise NotMeasured(f"{len(train)} training images are too few for {num_classes} classes")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MAX_PROBE_STEPS))
    predicted = probe.fit(train, train_labels).predict(test)
    return float((predicted == test_labels).mean())


def _check_spread(latents: np.ndarray) -> None:
    """Raises NotMeasured if the latents are equal or differ beyond single precision."""
    spread = float(np.ptp(latents.astype(np.float64), axis=0).max())
    if not _SPREADS[0] < spread < _SPREADS[1]:
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
    if len(latents) <= _NUM_NEIGHBORS:
        raise NotMeasured(f"{len(latents)} images, and it looks at {_NUM_NEIGHBORS} neighbors")
    init = "pca" if latents.shape[1] > 1 else "random"
    tsne = TSNE(perplexity=_NUM_NEIGHBORS, random_state=_MAP_SEED, init=init)
    return tsne.fit_transform(latents)
