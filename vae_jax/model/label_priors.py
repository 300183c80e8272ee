"""Learned priors of a conditional model: p(z | y) in place of p(z)."""

import dataclasses
from typing import Any

import jax

from vae_jax.model.structs import Batch


@dataclasses.dataclass(frozen=True, eq=False)
class PriorGivenLabels:
    """The prior of a batch with labels; its methods are the prior's, each given the labels.

    Attributes:
      prior: whose methods take `labels`, `<float>[batch, num_classes]`, as their last argument.
      labels: one-hot.
    """

    prior: Any
    labels: jax.Array

    def log_density(self, latents: jax.Array) -> jax.Array:
        """Computes log p(z | y) of `<float>[batch, latent]`: `<float>[batch]`, nats."""
        return self.prior.log_density(latents, self.labels)

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draws latent vectors `<float>[num_samples, latent]`, one for each label."""
        return self.prior.sample(key, num_samples, self.labels)

    def to_base(self, latents: jax.Array) -> jax.Array:
        """Maps latent vectors `<float>[batch, latent]` to the base space of a flow."""
        return self.prior.to_base(latents, self.labels)

    def from_base(self, base: jax.Array) -> jax.Array:
        """Maps vectors of the base space `<float>[batch, latent]` to latent vectors."""
        return self.prior.from_base(base, self.labels)


def given_labels(prior: Any, batch: Batch) -> Any:
    """Returns the prior of a batch: p(z | y) if the prior has classes, else the prior itself."""
    if not prior.num_classes:
        return prior
    return PriorGivenLabels(prior, batch.one_hot(prior.num_classes))
