"""This project as its command line runs it."""

from vae_jax.runtime import compilation

compilation.set_cpu_flags()

from contenders.flax_trainer import Trainer as Contender  # noqa: E402

__all__ = ["Contender"]
