"""Judges the claims of the reference project by the runs in `docs/runs`, for `docs/results.md`.

  python main.py --mode=report --workdir=docs/runs
  python benchmarks/reference_claims.py

The report and two more sections replace the end of that page, below `MARKER`. The quotations are
from the description of the reference project, the criteria are ours. They compare means over seeds:
the measure of a claim in `reference_claims.csv` has to be at least or at most the limit; with
another configuration, the factor times the mean of that, plus the limit.
"""

import csv
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from common import ROOT, table_lines

from vae_jax import shipped_configs
from vae_jax.reporting.runs import Group, Model, first_epoch, read_groups

RUNS = ROOT / "docs" / "runs"
MARKER = "<!-- Below this line: benchmarks/reference_claims.py -->"
# The last ten epochs of the log published with the reference project: means, nats per image.
_REFERENCE_LOG = {"loss": 111.03, "reconstruction": 87.01, "kl": 24.02}
_LOG_NOTE = """\
Training batches with dropout on, means over the last ten epochs, in nats per image. The reference \
project (github.com/sumeyye-agac/variational-autoencoder-MNIST-tensorflow) logs the first batch of \
each epoch (standard error 0.6); ours is the mean over all batches of those epochs. Agreement is \
within 1.5 nats."""
_CLAIMS_NOTE = """\
The limit is ours; with a configuration in brackets, it follows from the mean of that one, and a \
claim within two standard errors of the difference is undecided."""
_CONVERGED = 102.7  # nats: 2 above the lowest validation loss of the baseline


def _late_fall(model: Model) -> float:
    curve = model.curves["train_reconstruction"]
    return (curve[19] - curve[-1]) / (curve[0] - curve[-1])


def _early_kl(model: Model) -> float:
    return model.curves["train_kl"][1] / model.curves["train_kl"][-1]


def _roughness(model: Model) -> float:
    curve = model.curves["train_loss"]
    return float(np.std(np.diff(curve[len(curve) // 2 :], n=2)))


def _convergence(model: Model) -> float:
    curve = model.curves["validation_loss"]
    return first_epoch(curve, _CONVERGED) or len(curve) + 1


# By title: the measure's dotted name or its function, and its format.
_MEASURES: dict[str, tuple[str | Callable[[Model], float], str]] = {
    "fall of the reconstruction loss after epoch 20": (_late_fall, ".0%"),
    "training KL of epoch 2 over the last's": (_early_kl, ".0%"),
    "classifier accuracy on reconstructions": ("reconstructions.classifier_accuracy", ".1%"),
    "blank samples": ("samples.blank_fraction", ".2%"),
    "low-confidence rate of samples": ("samples.low_confidence_rate", ".1%"),
    "sharpness of reconstructions": ("reconstructions.sharpness", ".3f"),
    "recall of samples": ("samples.recall", ".3f"),
    "test KL": ("test.kl", ".2f"),
    "test loss": ("test.loss", ".2f"),
    "deviation of second differences of the training loss": (_roughness, ".3f"),
    "digits with 1% of the samples": ("samples.digits_present", ".0f"),
    "epochs to a validation loss of 102.7": (_convergence, ".0f"),
    "max/mean interpolation step": ("interpolations.max_mean_step_ratio", ".2f"),
}


def standard_error(first: Sequence[float], second: Sequence[float]) -> float:
    """Computes the standard error of the difference of two means; the variance is pooled."""
    degrees = max(len(first) + len(second) - 2, 1)
    squares = np.var(first) * len(first) + np.var(second) * len(second)
    return math.sqrt(squares / degrees * (1 / len(first) + 1 / len(second)))


def decide(excess: float, error: float) -> str:
    """Returns the answer, given by how much a measure is beyond its limit on the claimed side."""
    if abs(excess) < 2.0 * error:
        return "undecided"
    return "yes" if excess >= 0.0 else "**no**"


def _values(group: Group, measure: str | Callable[[Model], float]) -> list[float]:
    if isinstance(measure, str):
        return group.values(measure)
    return [measure(model) for model in group.models]


def rows_of_claims(groups: dict[str, Group]) -> Iterator[list[str]]:
    """Yields the row of each claim."""
    with (ROOT / "benchmarks" / "reference_claims.csv").open(newline="") as file:
        claims = [*csv.DictReader(file)]
    for claim in claims:
        name, other, title = claim["configuration"], claim["other"], claim["measure"]
        measure, form = _MEASURES[title]
        values, limit, error = _values(groups[name], measure), float(claim["limit"]), 0.0
        if other:
            others = [float(claim["factor"]) * v for v in _values(groups[other], measure)]
            limit, error = limit + float(np.mean(others)), standard_error(values, others)
            title = f"{title} ({other})"
        mean = float(np.mean(values))
        excess = mean - limit if claim["side"] == "at least" else limit - mean
        texts = (title, f"{mean:{form}}", f"{claim['side']} {limit:{form}}")
        answer = decide(excess, error)
        yield [name, claim["claim"], answer, *texts, f"{error:.2g}" if other else ""]


def rows_of_log(reference: Group) -> Iterator[list[str]]:
    """Yields the reference project's log, ours, and the difference."""
    ours = {term: reference.curve(f"train_{term}")[-10:].mean() for term in _REFERENCE_LOG}
    yield ["the reference project's log", *(f"{mean:.2f}" for mean in _REFERENCE_LOG.values())]
    yield ["reference", *(f"{mean:.2f}" for mean in ours.values())]
    yield ["difference", *(f"{ours[t] - mean:+.2f}" for t, mean in _REFERENCE_LOG.items())]


def main() -> None:
    """Replaces the end of `docs/results.md`."""
    page = ROOT / "docs" / "results.md"
    groups, _ = read_groups(RUNS, shipped_configs.get_configs_by_name())
    by_name = {group.name: group for group in groups}
    log = table_lines(["", "total", "reconstruction", "KL"], rows_of_log(by_name["reference"]))
    header = ["configuration", "claim", "reproduced", "measure", "mean", "limit", "standard error"]
    claims = table_lines(header, rows_of_claims(by_name))
    sections = [
        page.read_text().partition(MARKER)[0] + MARKER,
        (RUNS / "report.md").read_text().removeprefix("# Results\n").strip(),
        f"## The reference project's log\n\n{_LOG_NOTE}\n\n" + "\n".join(log),
        f"## Claims of the reference project\n\n{_CLAIMS_NOTE}\n\n" + "\n".join(claims),
    ]
    page.write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
