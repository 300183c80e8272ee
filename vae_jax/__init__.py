"""Variational autoencoders in JAX and Flax.

The public API: each name below is imported when it is first used, so that importing the package
needs no JAX.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_jax.evaluation.trained_run import TrainedVAE, load_run
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

# The names in each module, or the modules in each folder.
_NAMES = {
    "vae_jax.evaluation.trained_run": ("TrainedVAE", "load_run"),
    "vae_jax.model": ("distributions", "likelihoods", "losses", "priors"),
    "vae_jax.model.conv_transpose": ("ConvTranspose",),
    "vae_jax.model.structs": ("Batch",),
    "vae_jax.model.vae": ("apply", "create_vae"),
    "vae_jax.runtime": ("compilation",),
    "vae_jax.shipped_configs": ("get_config",),
    "vae_jax.train": ("train_run",),
}


def __getattr__(name: str) -> Any:
    """Imports a name of the public API (PEP 562)."""
    for module, names in _NAMES.items():
        if name in names:
            return getattr(__import__(module, fromlist=[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
