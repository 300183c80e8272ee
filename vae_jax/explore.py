"""Mode `explore`: a page on which the latent space is explored, for any browser."""

import os

import ml_collections

from vae_jax.evaluation.trained_run import load_data, restore_to_write
from vae_jax.reporting import explorer
from vae_jax.reporting.page import EXPLORER_NAME
from vae_jax.runtime.files import write_atomically


def explore(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Writes `explorer.html`, one self-contained file for each replica.

    Args:
      config: the run's configuration.
      workdir: the run directory.
      output: where the page goes; the run directory if None.

    Raises:
      UserError: there is no run, its data cannot be had, or are not the same any more, or its test
        images are all encoded alike.
    """
    run = restore_to_write(config, workdir, output)
    dataset = load_data(config, run)
    for replica in run.replicas:
        path = replica.folder / EXPLORER_NAME
        html = explorer.render(replica, dataset)
        write_atomically(path, html)
        print(f"wrote {path} ({len(html) / 1e6:.1f} MB)")
