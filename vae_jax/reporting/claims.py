"""Claims of the reference project, each judged by a number and a criterion fixed here.

The quotations are those of the reference project's description
(github.com/sumeyye-agac/variational-autoencoder-MNIST-tensorflow); the thresholds are ours. Every
criterion compares means over the seeds trained; one that compares two configurations is undecided
within two standard errors of the difference.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vae_jax.reporting.differences import Difference, all_of, difference
from vae_jax.reporting.runs import Group, Model, Part, epochs_to

_STABLE_EPOCH = 20
_EARLY_EPOCH = 2
_CLEAR_ACCURACY = 0.95
_CLOSE_NATS = 2.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a claim was reproduced, and the numbers that decide it.

    Attributes:
      reproduced: None where it cannot be judged, or is undecided.
      evidence: one sentence, with the criterion.
      is_undecided: whether it is within two standard errors.
    """

    reproduced: bool | None
    evidence: str
    is_undecided: bool = False

    @property
    def answer(self) -> str:
        """The verdict in a word or three."""
        if self.reproduced is None:
            return "undecided" if self.is_undecided else "cannot be judged"
        return "yes" if self.reproduced else "no"


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


def _compare(
    part: Callable[[Model], Part | None],
    value: Callable[[Part], float | None],
    first: Group,
    second: Group,
) -> Difference:
    """Compares a number's means over two groups' models."""
    _get_each(part, value, first, second)
    return difference(first.values(part, value), second.values(part, value))


def _decide(reproduced: bool | None, evidence: str, *differences: Difference) -> Verdict:
    """Makes a verdict of differences, whose standard errors it adds to the evidence."""
    errors = [each.standard_error for each in differences]
    if None in errors:
        said = "one seed each, so no standard error"
    else:
        noun = "standard error of the difference" if len(errors) == 1 else "standard errors"
        said = f"{noun} {' and '.join(f'{error:.2g}' for error in errors)}"
    return Verdict(reproduced, f"{evidence}; {said}", is_undecided=reproduced is None)


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
    sharpness = _compare(Model.reconstructions, lambda r: r.sharpness, deeper, baseline)
    errors = _get_each(Model.reconstructions, lambda r: r.mean_squared_error, deeper, baseline)
    return _decide(
        sharpness.exceeds(0.005),
        f"mean squared error {errors[0]:.5f} against {errors[1]:.5f}; gradient energy "
        f"{sharpness.first:.3f} of the originals', the baseline's {sharpness.second:.3f} "
        "(criterion: more by 0.005)",
        sharpness,
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
    kl = _compare(Model.summary, lambda s: s.test["kl"], deeper, baseline)
    too_much = kl.exceeds(3.0)
    return _decide(
        all_of(kl.exceeds(0.0), None if too_much is None else not too_much),
        f"test KL {kl.first:.2f} nats against the baseline's {kl.second:.2f} (criterion: more by "
        "up to 3)",
        kl,
    )


def _roughness(group: Group) -> list[float]:
    """Measures how much each model's training loss changes between epochs about its own trend."""
    curves = [[row["train_loss"] for row in model.rows] for model in group.models]
    shortest = min(map(len, curves))
    if shortest < 6:
        raise _Unmeasured(f"{group.name} has only {shortest} epochs")
    return [float(np.std(np.diff(curve[len(curve) // 2 :], n=2))) for curve in curves]


def _unstable(dropout: Group, baseline: Group) -> Verdict:
    twice = difference(_roughness(dropout), [2.0 * value for value in _roughness(baseline)])
    return _decide(
        twice.exceeds(0.0),
        f"over the second half, the training loss's second differences have a standard deviation "
        f"of {twice.first:.3f} nats, twice the baseline's is {twice.second:.3f} (criterion: more)",
        twice,
    )


def _incomplete_or_noisy(dropout: Group, baseline: Group) -> Verdict:
    rate = _compare(Model.samples, lambda s: s.low_confidence_rate, dropout, baseline)
    precision = _get_each(Model.samples, lambda s: s.precision, dropout, baseline)
    return _decide(
        rate.exceeds(0.02),
        f"precision {precision[0]:.3f} against {precision[1]:.3f}; the classifier's low-confidence "
        f"rate is {rate.first:.1%} on the samples, {rate.second:.1%} on the baseline's "
        "(criterion: more by 2 points)",
        rate,
    )


def _no_more_diverse(dropout: Group, baseline: Group) -> Verdict:
    recall = _compare(Model.samples, lambda s: s.recall, dropout, baseline)
    coverage = _get_each(Model.samples, lambda s: s.coverage, dropout, baseline)
    improved = recall.exceeds(0.01)
    return _decide(
        None if improved is None else not improved,
        f"coverage {coverage[0]:.3f} against {coverage[1]:.3f}; recall {recall.first:.3f} against "
        f"the baseline's {recall.second:.3f} (criterion: not more by 0.01)",
        recall,
    )


def _excessive_dropout(dropout: Group, without: Group) -> Verdict:
    loss = _compare(Model.summary, lambda s: s.test["loss"], dropout, without)
    distance = _compare(Model.samples, lambda s: s.frechet_distance, dropout, without)
    return _decide(
        all_of(loss.exceeds(0.0), distance.exceeds(0.0)),
        f"test loss {loss.first:.2f} nats with dropout, {loss.second:.2f} without; Fréchet "
        f"distance {distance.first:.2f} and {distance.second:.2f} (criterion: both worse)",
        loss,
        distance,
    )


def _covered(optimized: Group) -> Verdict:
    digits = _get(optimized, Model.samples, lambda s: s.digits_present)
    blank = _get(optimized, Model.samples, lambda s: s.blank_fraction)
    return Verdict(
        digits == 10,
        f"{digits:g} of the ten digits have at least 1% of the samples (criterion: all); "
        f"{blank:.2%} are blank",
    )


def _epochs_of_each(group: Group, target: float) -> list[int]:
    """Finds each model's first epoch with that validation loss; if none, the one after its last."""
    curves = [np.array([row["validation_loss"] for row in model.rows]) for model in group.models]
    return [epochs_to(curve, target) or len(curve) + 1 for curve in curves]


def _faster(optimized: Group, baseline: Group) -> Verdict:
    target = baseline.curve("validation_loss").min() + _CLOSE_NATS
    epochs = [_epochs_of_each(group, target) for group in (baseline, optimized)]
    sooner = difference(*epochs)
    return _decide(
        sooner.exceeds(0.0),
        f"validation first reaches {target:.1f} nats, {_CLOSE_NATS:.0f} above the baseline's best, "
        f"in epoch {sooner.second:g}; the baseline's in epoch {sooner.first:g} (criterion: "
        "earlier)",
        sooner,
    )


def _lstm_better(baseline: Group, dense: Group) -> Verdict:
    better = _compare(Model.summary, lambda s: s.test["loss"], dense, baseline)
    probes = _get_each(Model.latents, lambda z: z.probe_accuracy, baseline, dense)
    return _decide(
        better.exceeds(0.0),
        f"a linear probe reads {probes[0]:.1%} of the digits with the LSTM, {probes[1]:.1%} with "
        f"the dense encoder; test loss {better.second:.2f} nats and {better.first:.2f} (criterion: "
        "lower)",
        better,
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
