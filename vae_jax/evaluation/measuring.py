"""Measures that their input may not define: a number, or the reason for its absence."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

Value = TypeVar("Value")


class NotMeasured(Exception):
    """A measure that its input does not define; the message says why."""


class Measurer:
    """Measures one quantity after another; `reasons` has those that could not be measured."""

    def __init__(self):
        self.reasons: dict[str, str] = {}

    def __call__(
        self, name: str, function: Callable[..., Value], *inputs: np.ndarray
    ) -> Value | None:
        """Returns `function(*inputs)`; None if it is undefined, or if a number is not finite."""
        try:
            if not all(np.isfinite(array).all() for array in inputs):
                raise NotMeasured("what it is measured of is not finite")
            with np.errstate(all="ignore"):
                value = function(*inputs)
            if not np.isfinite(np.asarray(value)).all():
                raise NotMeasured("it is not finite")
        except (NotMeasured, np.linalg.LinAlgError) as reason:
            self.reasons[name] = str(reason)
            return None
        return value

    @property
    def not_measured(self) -> dict[str, str] | None:
        """The reasons, for a record; None if everything was measured."""
        return self.reasons or None
