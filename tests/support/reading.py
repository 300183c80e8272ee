"""Reading what runs leave."""

from pathlib import Path

from vae_jax.training.metrics import read_rows


def rows_without_timing(workdir: Path) -> list[dict[str, float]]:
    """What the same seed decides of a `metrics.csv`."""
    rows = read_rows(workdir / "metrics.csv")
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
