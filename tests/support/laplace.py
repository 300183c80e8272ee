"""The prior that docs/extending.md takes as an example, as a user would add it."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp

from tests.support.common import ROOT
from vae_jax import shipped_configs
from vae_jax.model import priors


def documented_prior() -> type:
    """Returns the class that docs/extending.md shows."""
    text = (ROOT / "docs" / "extending.md").read_text()
    [code] = (
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "class Laplace" in block
    )
    names = {
        "Prior": priors.Prior,
        "dataclasses": dataclasses,
        "jax": jax,
        "jnp": jnp,
        "math": math,
        "__name__": __name__,
    }
    exec(code, names)
    return names["Laplace"]


def add_laplace_prior(monkeypatch) -> None:
    """Names the documented prior "laplace", in the places that the documentation says."""
    monkeypatch.setitem(priors.PRIORS, "laplace", documented_prior())
    allowed = shipped_configs.allowed_values()
    monkeypatch.setitem(allowed, "prior.kind", (*allowed["prior.kind"], "laplace"))
