"""Judges the claims of the reference project by the runs in `docs/runs`, for `docs/results.md`.

  python main.py --mode=report --workdir=docs/runs
  python benchmarks/reference_claims.py

The report and two more sections replace the end of that page, below `MARKER`. The quotations are
from the description of the reference project
(github.com/sumeyye-agac/variational-autoencoder-MNIST-tensorflow), the criteria are ours. They
compare means over seeds; a claim about two configurations is undecided within two standard errors
of their difference.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from common import ROOT

from vae_jax import shipped_configs
from vae_jax.reporting.runs import Group, epochs_to, read_groups

RUNS = ROOT / "docs" / "runs"
MARKER = "<!-- Below this line: benchmarks/reference_claims.py -->"
# The last ten epochs of the log published with the reference project: means, nats per image.
_REFERENCE_LOG = {"loss": 111.03, "reconstruction": 87.01, "kl": 24.02}
_LOG_NOTE = """\
Training batches with dropout on, means over the last ten epochs, in nats per image. The reference \
project (github.com/sumeyye-agac/variational-autoencoder-MNIST-tensorflow) logs the first batch of \
each epoch (standard error 0.6); ours is the mean over all batches of those epochs. Agreement is \
within 1.5 nats."""


class Means:
    """A group's means over its seeds, by dotted name of the measure."""

    def __init__(self, group: Group):
        self.group = group

    def __getitem__(self, measure: str) -> float:
        return self.group.mean(measure)

    def is_more(self, measure: str, other: "Means", threshold: float = 0.0) -> "Excess":
        """Compares a measure with the other group's."""
        return excess(self.group.values(measure), other.group.values(measure), threshold)


class Excess(NamedTuple):
    """By how much a difference exceeds its threshold, and the standard error of the difference."""

    value: float
    error: float


# Whether a claim is true, or excesses that have to be positive; and the evidence.
Verdict = tuple[bool | list[Excess], str]
_CLAIMS: list[tuple[str, str, tuple[str, ...], Callable[..., Verdict]]] = []


def claim(quotation: str, configuration: str, *others: str) -> Callable:
    """Registers a judge of a sentence about a configuration, with the groups that it needs."""

    def register(judge: Callable[..., Verdict]) -> Callable[..., Verdict]:
        _CLAIMS.append((configuration, quotation, (configuration, *others), judge))
        return judge

    return register


def excess(first: Sequence[float], second: Sequence[float], threshold: float = 0.0) -> Excess:
    """Returns mean(first) - mean(second) - threshold; the variance of both is pooled."""
    degrees = max(len(first) + len(second) - 2, 1)
    squares = np.var(first) * len(first) + np.var(second) * len(second)
    error = math.sqrt(squares / degrees * (1 / len(first) + 1 / len(second)))
    return Excess(float(np.mean(first) - np.mean(second)) - threshold, error)


def decide(judged: bool | list[Excess], evidence: str) -> tuple[str, str]:
    """Returns the answer, and the evidence with the standard errors."""
    if isinstance(judged, list):
        answers = [None if abs(e.value) < 2.0 * e.error else e.value > 0.0 for e in judged]
        if None in answers and False not in answers:
            return "undecided", evidence
        judged, errors = all(answers), dict.fromkeys(f"{e.error:.2g}" for e in judged)
        noun = "standard errors" if len(errors) > 1 else "standard error of the difference"
        evidence = f"{evidence}; {noun} {' and '.join(errors)}"
    return "yes" if judged else "**no**", evidence


@claim("Reconstruction loss decreased and stabilized by epoch 20", "baseline")
def _stabilized(baseline: Means) -> Verdict:
    curve, validation = (
        baseline.group.curve(f"{split}_reconstruction") for split in ("train", "validation")
    )
    left = (curve[19] - curve[-1]) / (curve[0] - curve[-1])
    return left < 0.1, (
        f"{left:.0%} of the training reconstruction loss's fall, from {curve[0]:.1f} to "
        f"{curve[-1]:.1f} nats, comes after epoch 20 (criterion: below 10%); validation has "
        f"{validation[19]:.1f} then, {validation[-1]:.1f} at last"
    )


@claim("KL divergence increased gradually", "baseline")
def _kl_rose(baseline: Means) -> Verdict:
    curve = baseline.group.curve("train_kl")
    return curve[1] < 0.8 * curve[-1], (
        f"training KL is {curve[0]:.1f} nats in epoch 1, {curve[1]:.1f} in epoch 2 and "
        f"{curve[-1]:.1f} in the last (criterion: below 80% of the last in epoch 2)"
    )


@claim("Reconstructions were clear", "baseline")
@claim("Reconstructions were consistent and clear", "optimized")
def _clear(means: Means) -> Verdict:
    accuracy = means["reconstructions.classifier_accuracy"]
    sharpness = means["reconstructions.sharpness"]
    return accuracy >= 0.95, (
        f"the classifier's accuracy on reconstructed test digits is {accuracy:.1%} (criterion: at "
        f"least 95%); they have {sharpness:.0%} of the originals' gradient energy"
    )


@claim("Generated samples often ... were blank", "baseline")
def _blank(baseline: Means) -> Verdict:
    blank = baseline["samples.blank_fraction"]
    return blank >= 0.05, f"{blank:.2%} of the samples are blank (criterion: at least 5%)"


@claim("Generated samples often lacked detail", "baseline")
def _lacked_detail(baseline: Means) -> Verdict:
    rate, real = (baseline[f"{part}.low_confidence_rate"] for part in ("samples", "ceiling"))
    return rate >= 0.1, (
        f"the classifier's low-confidence rate is {rate:.1%} on the samples, {real:.1%} on real "
        "digits (criterion: at least 10%)"
    )


@claim("Reconstructions became sharper", "deeper_decoder", "baseline")
def _sharper(deeper: Means, baseline: Means) -> Verdict:
    error, sharpness = "reconstructions.mean_squared_error", "reconstructions.sharpness"
    return [deeper.is_more(sharpness, baseline, 0.005)], (
        f"mean squared error {deeper[error]:.5f} against {baseline[error]:.5f}; gradient energy "
        f"{deeper[sharpness]:.3f} of the originals', the baseline's {baseline[sharpness]:.3f} "
        "(criterion: more by 0.005)"
    )


@claim("Generated digits remained repetitive", "deeper_decoder")
def _repetitive(deeper: Means) -> Verdict:
    recall, real = deeper["samples.recall"], deeper["ceiling.recall"]
    digits = deeper["samples.digits_present"]
    return recall < 0.5 * real or digits < 10, (
        f"the samples' recall is {recall:.3f}, real digits' {real:.3f}; {digits:g} digits have 1% "
        "or more (criterion: recall below half of real digits', or a digit missing)"
    )


@claim("KL divergence slightly higher", "deeper_decoder", "baseline")
def _kl_slightly_higher(deeper: Means, baseline: Means) -> Verdict:
    excesses = [deeper.is_more("test.kl", baseline), baseline.is_more("test.kl", deeper, -3.0)]
    return excesses, (
        f"test KL {deeper['test.kl']:.2f} nats against the baseline's {baseline['test.kl']:.2f} "
        "(criterion: more by up to 3)"
    )


def _roughness(means: Means) -> np.ndarray:
    """Measures how much each model's training loss varies between epochs about its own trend."""
    curves = [[row["train_loss"] for row in model.rows] for model in means.group.models]
    return np.array([np.std(np.diff(curve[len(curve) // 2 :], n=2)) for curve in curves])


@claim("Training loss curves became unstable", "dropout", "baseline")
def _unstable(dropout: Means, baseline: Means) -> Verdict:
    ours, twice = _roughness(dropout), 2.0 * _roughness(baseline)
    return [excess(ours, twice)], (
        "over the second half, the training loss's second differences have a standard deviation of "
        f"{ours.mean():.3f} nats, twice the baseline's is {twice.mean():.3f} (criterion: more)"
    )


@claim("Generated images showed incomplete or noisy digits", "dropout", "baseline")
def _incomplete_or_noisy(dropout: Means, baseline: Means) -> Verdict:
    rate, precision = "samples.low_confidence_rate", "samples.precision"
    return [dropout.is_more(rate, baseline, 0.02)], (
        f"precision {dropout[precision]:.3f} against {baseline[precision]:.3f}; the classifier's "
        f"low-confidence rate is {dropout[rate]:.1%} on the samples, {baseline[rate]:.1%} on the "
        "baseline's (criterion: more by 2 points)"
    )


@claim("Dropout alone did not improve diversity", "dropout", "baseline")
def _no_more_diverse(dropout: Means, baseline: Means) -> Verdict:
    recall, coverage = "samples.recall", "samples.coverage"
    return [baseline.is_more(recall, dropout, -0.01)], (
        f"coverage {dropout[coverage]:.3f} against {baseline[coverage]:.3f}; recall "
        f"{dropout[recall]:.3f} against the baseline's {baseline[recall]:.3f} (criterion: not more "
        "by 0.01)"
    )


@claim("Excessive dropout reduced output quality", "deeper_dropout", "deeper_decoder")
def _excessive_dropout(dropout: Means, without: Means) -> Verdict:
    loss, distance = "test.loss", "samples.frechet_distance"
    return [dropout.is_more(loss, without), dropout.is_more(distance, without)], (
        f"test loss {dropout[loss]:.2f} nats with dropout, {without[loss]:.2f} without; Fréchet "
        f"distance {dropout[distance]:.2f} and {without[distance]:.2f} (criterion: both worse)"
    )


@claim("Generated samples covered digits 0-9", "optimized")
def _covered(optimized: Means) -> Verdict:
    digits, blank = optimized["samples.digits_present"], optimized["samples.blank_fraction"]
    return digits == 10, (
        f"{digits:g} of the ten digits have at least 1% of the samples (criterion: all); "
        f"{blank:.2%} are blank"
    )


def _epochs_of_each(means: Means, target: float) -> list[int]:
    """Finds each model's first epoch with that validation loss; if none, the one after its last."""
    curves = [[row["validation_loss"] for row in model.rows] for model in means.group.models]
    return [epochs_to(np.array(curve), target) or len(curve) + 1 for curve in curves]


@claim("Convergence was faster", "optimized", "baseline")
def _faster(optimized: Means, baseline: Means) -> Verdict:
    target = baseline.group.curve("validation_loss").min() + 2.0
    ours, theirs = _epochs_of_each(optimized, target), _epochs_of_each(baseline, target)
    return [excess(theirs, ours)], (
        f"validation first reaches {target:.1f} nats, 2 above the baseline's best, in epoch "
        f"{np.mean(ours):g}; the baseline's in epoch {np.mean(theirs):g} (criterion: earlier)"
    )


@claim(
    "The LSTM encoder improved sequential feature extraction compared to simple dense encoders",
    "dense_encoder",
    "baseline",
)
def _lstm_better(dense: Means, baseline: Means) -> Verdict:
    probe, loss = "latents.probe_accuracy", "test.loss"
    return [dense.is_more(loss, baseline)], (
        f"a linear probe reads {baseline[probe]:.1%} of the digits with the LSTM, "
        f"{dense[probe]:.1%} with the dense encoder; test loss {baseline[loss]:.2f} nats and "
        f"{dense[loss]:.2f} (criterion: lower)"
    )


@claim(
    "KL divergence helped maintain latent space regularity, supporting smooth interpolation",
    "optimized",
)
def _smooth(optimized: Means) -> Verdict:
    ratio = optimized["interpolations.max_mean_step_ratio"]
    return ratio <= 2.0, (
        f"the longest of ten steps between two test digits changes the image {ratio:.2f} times as "
        "much as the mean step (criterion: at most 2); between the ends the classifier's mean "
        f"confidence is {optimized['interpolations.mean_confidence']:.2f}"
    )


def rows_of_claims(groups: dict[str, Group]) -> Iterator[list[str]]:
    """Yields configuration, quotation, answer and evidence of each claim."""
    order = shipped_configs.REFERENCE_CONFIGS.index
    for configuration, quotation, names, judge in sorted(_CLAIMS, key=lambda c: order(c[0])):
        judged, evidence = judge(*(Means(groups[name]) for name in names))
        yield [configuration, quotation, *decide(judged, evidence)]


def rows_of_log(reference: Group) -> Iterator[list[str]]:
    """Yields the reference project's log, ours, and the difference."""
    ours = {term: reference.curve(f"train_{term}")[-10:].mean() for term in _REFERENCE_LOG}
    yield ["the reference project's log", *(f"{mean:.2f}" for mean in _REFERENCE_LOG.values())]
    yield ["reference", *(f"{mean:.2f}" for mean in ours.values())]
    yield ["difference", *(f"{ours[t] - mean:+.2f}" for t, mean in _REFERENCE_LOG.items())]


def _table(*rows: Sequence[str]) -> str:
    header, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *rest])


def main() -> None:
    """Replaces the end of `docs/results.md`."""
    report, page = RUNS / "report.md", ROOT / "docs" / "results.md"
    if not report.exists():
        sys.exit("error: run python main.py --mode=report --workdir=docs/runs first")
    groups, _ = read_groups(RUNS, shipped_configs.get_configs_by_name())
    by_name = {group.name: group for group in groups}
    log = _table(["", "total", "reconstruction", "KL"], *rows_of_log(by_name["reference"]))
    header = ["configuration", "claim", "reproduced", "decided by"]
    claims = _table(header, *rows_of_claims(by_name))
    sections = [
        page.read_text().partition(MARKER)[0] + MARKER,
        report.read_text().removeprefix("# Results\n").strip(),
        f"## The reference project's log\n\n{_LOG_NOTE}\n\n{log}",
        f"## Claims of the reference project\n\n{claims}\n",
    ]
    page.write_text("\n\n".join(sections))


if __name__ == "__main__":
    main()
