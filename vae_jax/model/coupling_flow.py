"""A prior that is learned: a standard normal, bent by invertible couplings."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.model import distributions
from vae_jax.model.label_priors import given_labels
from vae_jax.model.structs import Batch

_PERMUTATION_SEED = 0
# A layer scales its inputs by no more than exp of this, nor by less than its inverse.
_MAX_LOG_SCALE = 2.0


class CouplingFlow(nn.Module):
    """The density of z where `to_base(z)` is standard normal: RealNVP (Dinh et al. 2017).

    arXiv:1605.08803, section 3. A layer shifts and scales each dimension by learned numbers
    (Kingma and Dhariwal 2018, section 3.1), permutes them in a fixed way, and shifts and scales
    the second half by what two dense layers make of the first. The last dense layer begins at
    zero, so the flow begins as the standard normal, bent by nothing. Scales are bounded by a
    tanh. Layers are stacked: each parameter's first axis is the layer.

    Attributes:
      latent_size: number of latent dimensions, at least 2.
      num_layers: couplings.
      hidden_size: of their dense layers.
      num_classes: of the labels that the dense layers are given too, one-hot, for p(z | y); 0 for
        none. Every method then takes these.
    """

    latent_size: int
    num_layers: int = 10
    hidden_size: int = 256
    num_classes: int = 0

    base_is_standard_normal: ClassVar = True
    is_learned: ClassVar = True

    def __call__(self, batch: Batch) -> Any:
        """Returns the prior of a batch: the same for every image, or that of each label."""
        return given_labels(self, batch)

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
        """Computes what a layer does to the second half, from the first."""
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
        zeros = jnp.zeros_like(base)
        return distributions.gaussian_log_density(base, zeros, zeros) + log_det

    def sample(
        self, key: jax.Array, num_samples: int, labels: jax.Array | None = None
    ) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, decided by the key."""
        base = jax.random.normal(key, (num_samples, self.latent_size), jnp.float32)
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
