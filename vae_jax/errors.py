"""The one exception this package raises for mistakes a user can mend."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """A mistake in what the user gave: the message is one line that says what to do.

    The command line prints the message without a traceback and exits with status 1.
    """


def nearest(name: str, allowed: Sequence[str]) -> str:
    """The allowed name that is most like `name`."""
    name = name.lower()
    return max(allowed, key=lambda other: difflib.SequenceMatcher(None, name, other).ratio())


def check_choice(field: str, value: str, allowed: Sequence[str]) -> None:
    """Raises UserError, with the nearest allowed value, unless `value` is allowed."""
    if value not in allowed:
        raise UserError(
            f"{field} is {value!r}, must be one of {', '.join(allowed)}; "
            f"nearest: {nearest(str(value), allowed)}"
        )
