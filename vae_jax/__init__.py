"""Variational autoencoders in JAX and Flax.

The public API: each name below is imported when it is first used, so that importing the package
needs no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_jax.evaluation.trained_vae import TrainedVAE, load_run
    from vae_jax.model import distributions, likelihoods, losses, priors
    from vae_jax.model.conv_transpose import ConvTranspose
    from vae_jax.model.structs import Batch
    from vae_jax.model.vae import apply, create_vae
    from vae_jax.runtime import compilation
    from vae_jax.shipped_configs import get_config
    from vae_jax.train import train_run

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "ConvTranspose",
    "TrainedVAE",
    "apply",
    "compilation",
    "create_vae",
    "distributions",
    "get_config",
    "likelihoods",
    "load_run",
    "losses",
    "priors",
    "train_run",
]

# The module each name is in; a name with a module of its own is that module.
_MODULES = {
    "Batch": "vae_jax.model.structs",
    "ConvTranspose": "vae_jax.model.conv_transpose",
    "TrainedVAE": "vae_jax.evaluation.trained_vae",
    "apply": "vae_jax.model.vae",
    "compilation": "vae_jax.runtime.compilation",
    "create_vae": "vae_jax.model.vae",
    "distributions": "vae_jax.model.distributions",
    "get_config": "vae_jax.shipped_configs",
    "likelihoods": "vae_jax.model.likelihoods",
    "load_run": "vae_jax.evaluation.trained_vae",
    "losses": "vae_jax.model.losses",
    "priors": "vae_jax.model.priors",
    "train_run": "vae_jax.train",
}


def __getattr__(name: str) -> Any:
    """Imports a name of the public API (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_MODULES[name])
    value = module if _MODULES[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public API."""
    return [*globals(), *__all__]
