"""Mode `explore`: a page on which the latent space is explored, for any browser."""

import os

import ml_collections

from vae_jax import datasets
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.reporting import explorer
from vae_jax.reporting.page import EXPLORER_NAME
from vae_jax.runtime.files import local_path, write_atomically
from vae_jax.training import run_directory


def explore(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Writes `explorer.html`, one self-contained file for each replica.

    Args:
      config: the run's configuration.
      workdir: the run directory.
      output: the folder to write to, in which replicas have folders as in the run directory; None
        for the run directory.

    Raises:
      UserError: there is no run, its data cannot be had, or are not the same any more, or its test
        images are all encoded alike.
    """
    run = restore_best(config, workdir)
    dataset = datasets.load(**config.data)
    run_directory.check_same_data(run.workdir, dataset.sha256)
    folder = run.workdir if output is None else local_path("--output", output)
    for replica in run.replicas:
        path = folder / replica.folder.relative_to(run.workdir) / EXPLORER_NAME
        html = explorer.render(replica, dataset)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, html)
        print(f"wrote {path} ({len(html) / 1e6:.1f} MB)")
