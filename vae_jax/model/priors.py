"""Priors p(z) over latent vectors; one with parameters is a Flax module too."""

import dataclasses
import functools
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.model import distributions
from vae_jax.model.structs import Batch

_PERMUTATION_SEED = 0
# A coupling scales its inputs by at most exp of this, and at least its inverse.
_MAX_LOG_SCALE = 2.0


class Prior:
    """The attributes and methods of every prior."""

    is_learned: ClassVar[bool] = False  # whether training changes it

    def __call__(self, batch: Batch) -> Any:
        """Returns the prior of a batch: p(z), the same for all, or p(z | y)."""
        return self

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        raise NotImplementedError

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        raise NotImplementedError


@runtime_checkable
class ClosedFormPrior(Protocol):
    """A prior with a closed form of the KL divergence of diagonal Gaussians from it.

    Without these two methods the KL is estimated by log q - log p of a sample.
    """

    def kl_per_dimension(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes the KL of posteriors, dimension by dimension: `<float>[batch, latent]`, nats."""
        ...

    def kl(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes their sum: KL(q(z | x) || p(z)), `<float>[batch]`, nats per image."""
        ...


@runtime_checkable
class FlowPrior(Protocol):
    """A prior that is an invertible map of its base space."""

    def to_base(self, latents: jax.Array) -> jax.Array:
        """Maps latent vectors `<float>[batch, latent]` to the base space."""
        ...

    def from_base(self, base: jax.Array) -> jax.Array:
        """Maps vectors of the base space `<float>[batch, latent]` to latent vectors."""
        ...


@dataclasses.dataclass(frozen=True)
class StandardNormal(Prior):
    """N(0, I), without parameters."""

    latent_size: int

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        zeros = jnp.zeros_like(latents)
        return distributions.gaussian_log_density(latents, zeros, zeros)

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        return jax.random.normal(key, (num_samples, self.latent_size), jnp.float32)

    def kl_per_dimension(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes the KL of posteriors, dimension by dimension: `<float>[batch, latent]`, nats."""
        return distributions.gaussian_kl_per_dimension(mean, log_var)

    def kl(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        """Computes KL(q(z | x) || p(z)): `<float>[batch]`, nats per image."""
        return distributions.gaussian_kl(mean, log_var)


class _LearnedPrior(Prior, nn.Module):
    """A prior with parameters; its methods take one-hot labels `[batch, classes]` last, or None."""

    is_learned: ClassVar = True
    num_classes = 0  # a field of priors that can depend on labels

    def __call__(self, batch: Batch) -> Any:
        """Returns the prior of a batch: p(z | y) if the prior has classes, else p(z)."""
        if not self.num_classes:
            return self
        return _GivenLabels(self, batch.one_hot(self.num_classes))


@dataclasses.dataclass(frozen=True, eq=False)
class _GivenLabels:
    """p(z | y) of a batch: the methods of a learned prior, its labels given."""

    prior: Any
    labels: jax.Array

    def __getattr__(self, method: str) -> Any:
        return functools.partial(getattr(self.prior, method), labels=self.labels)


class _Mixture(_LearnedPrior):
    """A mixture of diagonal Gaussians, which a subclass defines."""

    def _components(self, labels: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Computes mean and log-variance `<float>[components, latent]`, and log-weights.

        The log-weights are `<float>[components]`, or of each label `<float>[batch, components]`.
        """
        raise NotImplementedError

    def log_density(self, latents: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        mean, log_var, log_weights = self._components(labels)
        density = jax.vmap(distributions.gaussian_log_density, in_axes=(None, 0, 0), out_axes=1)
        log_densities = density(latents, mean[:, None], log_var[:, None])
        log_weights = log_weights[None] if labels is None else log_weights
        return jax.nn.logsumexp(log_densities + log_weights, axis=1)

    def sample(
        self, key: jax.Array, num_samples: int, labels: jax.Array | None = None
    ) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        mean, log_var, log_weights = self._components(labels)
        component_key, noise_key = jax.random.split(key)
        chosen = jax.random.categorical(component_key, log_weights, shape=(num_samples,))
        return distributions.sample_gaussian(noise_key, mean[chosen], log_var[chosen])


class GaussianMixture(_Mixture):
    """A mixture of Gaussians with learned means, variances and weights."""

    latent_size: int
    num_components: int = 500
    num_classes: int = 0  # labels, each with its own weights, for p(z | y); 0 for none

    def setup(self) -> None:
        """Makes means, log-variances and weights; together they begin near the standard normal."""
        shape, zeros = (self.num_components, self.latent_size), nn.initializers.zeros
        self.mean = self.param("mean", nn.initializers.normal(0.5), shape)
        self.log_var = self.param("log_var", zeros, shape)
        classes = (self.num_classes,) if self.num_classes else ()
        self.logits = self.param("logits", zeros, (*classes, self.num_components))

    def _components(self, labels: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        log_weights = jax.nn.log_softmax(self.logits)
        if labels is not None:
            log_weights = labels @ log_weights
        return self.mean, self.log_var, log_weights


class VampPrior(_Mixture):
    """The mixture of the posteriors of pseudo-inputs (Tomczak and Welling 2018).

    arXiv:1705.07120, equation 9; with training images as pseudo-inputs, "VampPrior data" there.
    Pseudo-inputs are intensities between 0 and 1.
    """

    encoder: nn.Module  # the autoencoder's own
    image_shape: tuple[int, int, int]  # `(height, width, channels)`
    num_components: int = 500
    pseudo_inputs: str = "learned"  # or "data": training images, which stay as they are

    def setup(self) -> None:
        """Makes the pseudo-inputs: learned noise around gray, or a place for images."""
        shape = (self.num_components, *self.image_shape)
        self.images = self.param("images", nn.initializers.normal(1.0), shape)

    @property
    def is_learned(self) -> bool:
        """Whether training changes the pseudo-inputs; the encoder is trained either way."""
        return self.pseudo_inputs == "learned"

    @property
    def num_training_images(self) -> int:
        """Number of training images that it begins with, set by `with_pseudo_inputs`."""
        return 0 if self.is_learned else self.num_components

    def _components(self, labels: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        learned = self.is_learned
        images = jax.nn.sigmoid(self.images) if learned else jax.lax.stop_gradient(self.images)
        posterior = self.encoder(Batch(images))
        log_weights = jnp.full(self.num_components, -jnp.log(self.num_components))
        return posterior.mean, posterior.log_var, log_weights


class CouplingFlow(_LearnedPrior):
    """The density of z where `to_base(z)` is standard normal: RealNVP (Dinh et al. 2017).

    arXiv:1605.08803, section 3. A layer shifts and scales each dimension by learned numbers
    (Kingma and Dhariwal 2018, section 3.1), permutes them in a fixed way, and shifts and scales
    the second half by the output of three dense layers of the first. The last of these begins at
    zero: the flow begins as the standard normal. Each parameter's first axis is the layer.
    """

    latent_size: int  # at least 2
    num_layers: int = 10
    hidden_size: int = 256  # of the dense layers
    num_classes: int = 0  # labels, inputs of the dense layers for p(z | y); 0 for none

    def setup(self) -> None:
        """Makes the layers' parameters."""
        layers, size, hidden = self.num_layers, self.latent_size, self.hidden_size
        half = size // 2
        kernel, zeros = nn.initializers.lecun_normal(batch_axis=(0,)), nn.initializers.zeros
        shapes = {
            "shift": (zeros, (layers, size)),
            "log_scale": (zeros, (layers, size)),
            "first_kernel": (kernel, (layers, half + self.num_classes, hidden)),
            "first_bias": (zeros, (layers, hidden)),
            "second_kernel": (kernel, (layers, hidden, hidden)),
            "second_bias": (zeros, (layers, hidden)),
            "last_kernel": (zeros, (layers, hidden, 2 * (size - half))),
            "last_bias": (zeros, (layers, 2 * (size - half))),
        }
        self.layers = {name: self.param(name, *how) for name, how in shapes.items()}
        random = np.random.RandomState(_PERMUTATION_SEED)
        self.orders = np.stack([random.permutation(size) for _ in range(layers)])

    def _shift_and_log_scale(
        self, layer: dict, first: jax.Array, labels: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        if labels is not None:
            first = jnp.concatenate([first, labels], axis=-1)
        hidden = nn.swish(first @ layer["first_kernel"] + layer["first_bias"][None])
        hidden = nn.swish(hidden @ layer["second_kernel"] + layer["second_bias"][None])
        shift, raw = jnp.split(hidden @ layer["last_kernel"] + layer["last_bias"][None], 2, axis=-1)
        return shift, _MAX_LOG_SCALE * jnp.tanh(raw / _MAX_LOG_SCALE)

    def _to_base(self, latents: jax.Array, labels: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Maps latents to the base space; returns log |det| of the map's Jacobian too."""

        def apply(carry: tuple[jax.Array, jax.Array], layer: dict):
            z, log_det = carry
            z = (z + layer["shift"][None]) * jnp.exp(layer["log_scale"])[None]
            first, second = jnp.split(z[:, layer["order"]], [self.latent_size // 2], axis=-1)
            shift, log_scale = self._shift_and_log_scale(layer, first, labels)
            z = jnp.concatenate([first, second * jnp.exp(log_scale) + shift], axis=-1)
            return (z, log_det + layer["log_scale"].sum() + log_scale.sum(-1)), None

        stacked = {**self.layers, "order": jnp.asarray(self.orders)}
        return jax.lax.scan(apply, (latents, jnp.zeros(len(latents))), stacked)[0]

    def log_density(self, latents: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Computes log p(z) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        base, log_det = self._to_base(latents, labels)
        return StandardNormal(self.latent_size).log_density(base) + log_det

    def sample(
        self, key: jax.Array, num_samples: int, labels: jax.Array | None = None
    ) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        base = StandardNormal(self.latent_size).sample(key, num_samples)
        return self.from_base(base, labels)

    def to_base(self, latents: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Maps latent vectors `<float>[batch, latent]` to the base space."""
        return self._to_base(latents, labels)[0]

    def from_base(self, base: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Maps vectors of the base space `<float>[batch, latent]` to latent vectors."""

        def invert(z: jax.Array, layer: dict) -> tuple[jax.Array, None]:
            first, second = jnp.split(z, [self.latent_size // 2], axis=-1)
            shift, log_scale = self._shift_and_log_scale(layer, first, labels)
            z = jnp.concatenate([first, (second - shift) * jnp.exp(-log_scale)], axis=-1)
            z = z[:, layer["inverse"]] * jnp.exp(-layer["log_scale"])[None]
            return z - layer["shift"][None], None

        stacked = {**self.layers, "inverse": jnp.asarray(np.argsort(self.orders, axis=1))}
        return jax.lax.scan(invert, base, stacked, reverse=True)[0]


PRIORS: dict[str, type] = {
    "standard_normal": StandardNormal,
    "coupling_flow": CouplingFlow,
    "mixture": GaussianMixture,
    "vamp": VampPrior,
}
