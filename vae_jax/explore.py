"""Mode `explore`: a page on which the latent space is explored in a browser."""

import os

from vae_jax.evaluation.trained_run import load_data, restore_to_write
from vae_jax.modes import Mode, run_flags
from vae_jax.reporting import explorer
from vae_jax.reporting.page import EXPLORER_NAME
from vae_jax.runtime.files import write_atomically
from vae_jax.training.run_directory import RunDirectory


def explore(source: RunDirectory, output: str | os.PathLike[str] | None = None) -> None:
    """Writes `explorer.html`, one self-contained file for each replica.

    Args:
      source: the run directory.
      output: the folder of the page; the run directory if None.

    Raises:
      UserError: the run or its data are missing or changed, or all latent means are the same.
    """
    run = restore_to_write(source, output, [EXPLORER_NAME])
    dataset = load_data(run)
    for replica in run.replicas:
        path = replica.folder / EXPLORER_NAME
        html = explorer.render(replica, dataset)
        write_atomically(path, html)
        print(f"wrote {path} ({len(html) / 1e6:.1f} MB)")


MODE = Mode(explore, flags=run_flags())
