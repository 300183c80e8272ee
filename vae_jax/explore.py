"""Mode `explore`: a page on which the latent space is explored in a browser."""

from vae_jax.evaluation.trained_run import TrainedRun, load_data
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.reporting import explorer
from vae_jax.runtime.files import write_atomically

_NAME = "explorer.html"


@run_mode(_NAME)
def explore(run: TrainedRun) -> None:
    """Writes `explorer.html`, one self-contained file for each replica.

    Raises:
      UserError: the data are missing or changed, or all latent means are the same.
    """
    dataset = load_data(run)
    for replica in run.replicas:
        path = replica.folder / _NAME
        html = explorer.render(replica, dataset)
        write_atomically(path, html)
        print(f"wrote {path} ({len(html) / 1e6:.1f} MB)")


MODE = Mode(explore, flags=run_flags())
