"""Claims of the reference project, each judged by a number and a criterion fixed here.

The quotations are those of the reference project's description
(github.com/sumeyye-agac/variational-autoencoder-MNIST-tensorflow); the thresholds are ours. Every
criterion compares means over the seeds trained.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vae_jax.reporting.runs import Group, Model, Part, epochs_to

_STABLE_EPOCH = 20
_EARLY_EPOCH = 2
_CLEAR_ACCURACY = 0.95
_CLOSE_NATS = 2.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a claim was reproduced, and the numbers that decide it.

    Attributes:
      reproduced: None where it cannot be judged.
      evidence: one sentence, with the criterion.
    """

    reproduced: bool | None
    evidence: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the reference project's description.

    Attributes:
      configuration: what it was said of.
      quotation: the words.
      needs: names of the configurations that decide it.
      judge: from their groups, in that order, to the verdict.
    """

    configuration: str
    quotation: str
    needs: Sequence[str]
    judge: Callable[..., Verdict]


class _Unmeasured(Exception):
    """A number that a verdict needs is missing."""


def _get(
    group: Group, part: Callable[[Model], Part | None], value: Callable[[Part], float | None]
) -> float:
    """Averages a number over a group's models.

    Raises:
      _Unmeasured: none of them has it.
    """
    mean = group.mean(part, value)
    if mean is None:
        raise _Unmeasured(f"not measured of {group.name}: its {part.__name__}")
    return mean


def _get_each(
    part: Callable[[Model], Part | None], value: Callable[[Part], float | None], *groups: Group
) -> list[float]:
    """Averages a number over each group's models."""
    return [_get(group, part, value) for group in groups]


def _stabilized(baseline: Group) -> Verdict:
    curve = baseline.curve("train_reconstruction")
    if len(curve) <= _STABLE_EPOCH:
        raise _Unmeasured(f"{baseline.name} has only {len(curve)} epochs")
    if curve[0] == curve[-1]:
        raise _Unmeasured(f"{baseline.name}'s training reconstruction loss has not changed")
    left = (curve[_STABLE_EPOCH - 1] - curve[-1]) / (curve[0] - curve[-1])
    validation = baseline.curve("validation_reconstruction")
    return Verdict(
        bool(left < 0.1),
        f"{left:.0%} of the training reconstruction loss's fall, from {curve[0]:.1f} to "
        f"{curve[-1]:.1f} nats, comes after epoch {_STABLE_EPOCH} (criterion: below 10%); "
        f"validation has {validation[_STABLE_EPOCH - 1]:.1f} then, {validation[-1]:.1f} at last",
    )


def _kl_rose_gradually(baseline: Group) -> Verdict:
    curve = baseline.curve("train_kl")
    early = curve[min(_EARLY_EPOCH, len(curve)) - 1]
    return Verdict(
        bool(early < 0.8 * curve[-1]),
        f"training KL is {curve[0]:.1f} nats in epoch 1, {early:.1f} in epoch {_EARLY_EPOCH} and "
        f"{curve[-1]:.1f} in the last (criterion: below 80% of the last in epoch {_EARLY_EPOCH})",
    )


def _clear(group: Group) -> Verdict:
    accuracy = _get(group, Model.reconstructions, lambda r: r.classifier_accuracy)
    sharpness = _get(group, Model.reconstructions, lambda r: r.sharpness)
    return Verdict(
        accuracy >= _CLEAR_ACCURACY,
        f"the classifier's accuracy on reconstructed test digits is {accuracy:.1%} (criterion: at "
        f"least {_CLEAR_ACCURACY:.0%}); they have {sharpness:.0%} of the originals' gradient "
        "energy",
    )


def _blank(baseline: Group) -> Verdict:
    blank = _get(baseline, Model.samples, lambda s: s.blank_fraction)
    return Verdict(blank >= 0.05, f"{blank:.2%} of the samples are blank (criterion: at least 5%)")


def _lacked_detail(baseline: Group) -> Verdict:
    rate = _get(baseline, Model.samples, lambda s: s.low_confidence_rate)
    real = _get(baseline, Model.ceiling, lambda c: c.low_confidence_rate)
    return Verdict(
        rate >= 0.1,
        f"the classifier's low-confidence rate is {rate:.1%} on the samples, {real:.1%} on real "
        "digits (criterion: at least 10%)",
    )


def _sharper(deeper: Group, baseline: Group) -> Verdict:
    ours, theirs = _get_each(Model.reconstructions, lambda r: r.sharpness, deeper, baseline)
    errors = _get_each(Model.reconstructions, lambda r: r.mean_squared_error, deeper, baseline)
    return Verdict(
        ours > theirs + 0.005,
        f"gradient energy {ours:.3f} of the originals', the baseline's {theirs:.3f} "
        f"(criterion: more by 0.005); mean squared error {errors[0]:.5f} against {errors[1]:.5f}",
    )


def _repetitive(deeper: Group) -> Verdict:
    recall = _get(deeper, Model.samples, lambda s: s.recall)
    real = _get(deeper, Model.ceiling, lambda c: c.recall)
    digits = _get(deeper, Model.samples, lambda s: s.digits_present)
    return Verdict(
        recall < 0.5 * real or digits < 10,
        f"the samples' recall is {recall:.3f}, real digits' {real:.3f}; {digits:g} digits "
        "have 1% or more (criterion: recall below half of real digits', or a digit missing)",
    )


def _kl_slightly_higher(deeper: Group, baseline: Group) -> Verdict:
    ours, theirs = _get_each(Model.summary, lambda s: s.test.kl, deeper, baseline)
    return Verdict(
        0.0 < ours - theirs <= 3.0,
        f"test KL {ours:.2f} nats against the baseline's {theirs:.2f} (criterion: more by up to 3)",
    )


def _roughness(group: Group) -> float:
    """Measures how much the training loss changes from epoch to epoch about its own trend."""
    curve = group.curve("train_loss")
    if len(curve) < 6:
        raise _Unmeasured(f"{group.name} has only {len(curve)} epochs")
    return float(np.std(np.diff(curve[len(curve) // 2 :], n=2)))


def _unstable(dropout: Group, baseline: Group) -> Verdict:
    ours, theirs = _roughness(dropout), _roughness(baseline)
    return Verdict(
        ours > 2.0 * theirs,
        f"over the second half, the training loss's second differences have a standard deviation "
        f"of {ours:.3f} nats, the baseline's {theirs:.3f} (criterion: more than twice)",
    )


def _incomplete_or_noisy(dropout: Group, baseline: Group) -> Verdict:
    rate, base = _get_each(Model.samples, lambda s: s.low_confidence_rate, dropout, baseline)
    precision = _get_each(Model.samples, lambda s: s.precision, dropout, baseline)
    return Verdict(
        rate > base + 0.02,
        f"the classifier's low-confidence rate is {rate:.1%} on the samples, {base:.1%} on the "
        f"baseline's (criterion: more by 2 points); precision {precision[0]:.3f} against "
        f"{precision[1]:.3f}",
    )


def _no_more_diverse(dropout: Group, baseline: Group) -> Verdict:
    recall = _get_each(Model.samples, lambda s: s.recall, dropout, baseline)
    coverage = _get_each(Model.samples, lambda s: s.coverage, dropout, baseline)
    return Verdict(
        recall[0] <= recall[1] + 0.01,
        f"recall {recall[0]:.3f} against the baseline's {recall[1]:.3f} (criterion: not more by "
        f"0.01); coverage {coverage[0]:.3f} against {coverage[1]:.3f}",
    )


def _excessive_dropout(dropout: Group, without: Group) -> Verdict:
    losses = _get_each(Model.summary, lambda s: s.test.loss, dropout, without)
    distances = _get_each(Model.samples, lambda s: s.frechet_distance, dropout, without)
    return Verdict(
        losses[0] > losses[1] and distances[0] > distances[1],
        f"test loss {losses[0]:.2f} nats with dropout, {losses[1]:.2f} without; Fréchet distance "
        f"{distances[0]:.2f} and {distances[1]:.2f} (criterion: both worse)",
    )


def _covered(optimized: Group) -> Verdict:
    digits = _get(optimized, Model.samples, lambda s: s.digits_present)
    blank = _get(optimized, Model.samples, lambda s: s.blank_fraction)
    return Verdict(
        digits == 10,
        f"{digits:g} of the ten digits have at least 1% of the samples (criterion: all); "
        f"{blank:.2%} are blank",
    )


def _faster(optimized: Group, baseline: Group) -> Verdict:
    curves = [group.curve("validation_loss") for group in (optimized, baseline)]
    target = curves[1].min() + _CLOSE_NATS
    ours, theirs = (epochs_to(curve, target) for curve in curves)
    return Verdict(
        ours is not None and theirs is not None and ours < theirs,
        f"validation first reaches {target:.1f} nats, {_CLOSE_NATS:.0f} above the baseline's best, "
        f"in epoch {ours or 'none'}; the baseline's in epoch {theirs} (criterion: earlier)",
    )


def _lstm_better(baseline: Group, dense: Group) -> Verdict:
    losses = _get_each(Model.summary, lambda s: s.test.loss, baseline, dense)
    probes = _get_each(Model.latents, lambda z: z.probe_accuracy, baseline, dense)
    return Verdict(
        losses[0] < losses[1],
        f"test loss {losses[0]:.2f} nats with the LSTM, {losses[1]:.2f} with the dense encoder "
        f"(criterion: lower); a linear probe reads {probes[0]:.1%} and {probes[1]:.1%} of the "
        "digits",
    )


def _smooth(optimized: Group) -> Verdict:
    ratio = _get(optimized, Model.interpolations, lambda i: i.max_mean_step_ratio)
    confidence = _get(optimized, Model.interpolations, lambda i: i.mean_confidence)
    return Verdict(
        ratio <= 2.0,
        f"the longest of ten steps between two test digits changes the image {ratio:.2f} times as "
        "much as the mean step (criterion: at most 2); between the ends the classifier's mean "
        f"confidence is {confidence:.2f}",
    )


CLAIMS = (
    Claim(
        "baseline",
        "Reconstruction loss decreased and stabilized by epoch 20",
        ("baseline",),
        _stabilized,
    ),
    Claim("baseline", "KL divergence increased gradually", ("baseline",), _kl_rose_gradually),
    Claim("baseline", "Reconstructions were clear", ("baseline",), _clear),
    Claim("baseline", "Generated samples often ... were blank", ("baseline",), _blank),
    Claim("baseline", "Generated samples often lacked detail", ("baseline",), _lacked_detail),
    Claim(
        "deeper_decoder",
        "Reconstructions became sharper",
        ("deeper_decoder", "baseline"),
        _sharper,
    ),
    Claim(
        "deeper_decoder",
        "Generated digits remained repetitive",
        ("deeper_decoder",),
        _repetitive,
    ),
    Claim(
        "deeper_decoder",
        "KL divergence slightly higher",
        ("deeper_decoder", "baseline"),
        _kl_slightly_higher,
    ),
    Claim("dropout", "Training loss curves became unstable", ("dropout", "baseline"), _unstable),
    Claim(
        "dropout",
        "Generated images showed incomplete or noisy digits",
        ("dropout", "baseline"),
        _incomplete_or_noisy,
    ),
    Claim(
        "dropout",
        "Dropout alone did not improve diversity",
        ("dropout", "baseline"),
        _no_more_diverse,
    ),
    Claim(
        "deeper_dropout",
        "Excessive dropout reduced output quality",
        ("deeper_dropout", "deeper_decoder"),
        _excessive_dropout,
    ),
    Claim("optimized", "Reconstructions were consistent and clear", ("optimized",), _clear),
    Claim("optimized", "Generated samples covered digits 0-9", ("optimized",), _covered),
    Claim("optimized", "Convergence was faster", ("optimized", "baseline"), _faster),
    Claim(
        "dense_encoder",
        "The LSTM encoder improved sequential feature extraction compared to simple dense encoders",
        ("baseline", "dense_encoder"),
        _lstm_better,
    ),
    Claim(
        "optimized",
        "KL divergence helped maintain latent space regularity, supporting smooth interpolation",
        ("optimized",),
        _smooth,
    ),
)


def judge(claim: Claim, groups: Mapping[str, Group]) -> Verdict:
    """Judges a claim by the groups of named configurations that there are."""
    missing = [name for name in claim.needs if name not in groups]
    if missing:
        return Verdict(None, f"needs a complete run of {' and '.join(missing)}")
    try:
        return claim.judge(*(groups[name] for name in claim.needs))
    except _Unmeasured as error:
        return Verdict(None, str(error))
