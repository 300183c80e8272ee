"""The prior that docs/extending.md takes as an example, as a user would add it."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from tests.support.common import python_block
from vae_jax import shipped_configs
from vae_jax.model import priors


def documented_prior() -> type:
    """Returns the class that docs/extending.md shows."""
    names = {
        "Prior": priors.Prior,
        "dataclasses": dataclasses,
        "jax": jax,
        "jnp": jnp,
        "math": math,
        "__name__": __name__,
    }
    exec(python_block("docs/extending.md", "class Laplace"), names)
    return names["Laplace"]


def add_laplace_prior(monkeypatch) -> None:
    """Names the documented prior "laplace", in the places that the documentation says."""
    monkeypatch.setitem(priors.PRIORS, "laplace", documented_prior())
    allowed = shipped_configs.allowed_values()
    monkeypatch.setitem(allowed, "prior.kind", (*allowed["prior.kind"], "laplace"))
