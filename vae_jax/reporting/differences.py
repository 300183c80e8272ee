"""Means of two groups of seeds held against each other, and what chance makes of them."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

_STANDARD_ERRORS = 2.0  # within which a difference decides nothing


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of two groups' means.

    Attributes:
      first: mean of the first group.
      second: mean of the second.
      standard_error: of first - second, from the variance of both together, taken to be the same;
        None where each has a single value.
    """

    first: float
    second: float
    standard_error: float | None

    def exceeds(self, threshold: float) -> bool | None:
        """Tells whether first - second is above a threshold; None within two standard errors."""
        excess = self.first - self.second - threshold
        if abs(excess) < _STANDARD_ERRORS * (self.standard_error or 0.0):
            return None
        return excess > 0.0


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compares the means of two groups of at least one value each."""
    means = statistics.fmean(first), statistics.fmean(second)
    degrees = len(first) + len(second) - 2
    if not degrees:
        return Difference(*means, None)
    squares = sum(
        (value - mean) ** 2
        for values, mean in zip((first, second), means, strict=True)
        for value in values
    )
    variance = squares / degrees * (1 / len(first) + 1 / len(second))
    return Difference(*means, math.sqrt(variance))


def all_of(*answers: bool | None) -> bool | None:
    """Returns whether all are true: False if one is not, None if that is undecided."""
    if False in answers:
        return False
    return None if None in answers else True
