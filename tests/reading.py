"""Reading what runs leave."""

import csv
from pathlib import Path


def read_csv(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def rows_without_timing(workdir: Path) -> list[dict[str, float]]:
    """What the same seed decides of a `metrics.csv`."""
    rows = read_csv(workdir / "metrics.csv")
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
