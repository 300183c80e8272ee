"""The exception for mistakes that a user can fix."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """A mistake of the user, whose message is one line that says what to do.

    The command line prints it without a traceback and exits with status 1. The message escapes line
    breaks and control characters.
    """

    def __init__(self, message: str):
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        super().__init__("".join(shown))


def describe(error: Exception) -> str:
    """Describes any error in one line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return str(UserError(f"{error.filename or 'a file'}: {error.strerror}"))
    lines = str(error).strip().splitlines()
    return str(UserError(": ".join([type(error).__name__, *lines[:1]])))


def closest_match(name: str, allowed: Sequence[str]) -> str:
    """Returns the allowed name that is most similar to `name`."""
    return difflib.get_close_matches(name.lower(), allowed, n=1, cutoff=0.0)[0]


def check_choice(field: str, value: str, allowed: Sequence[str]) -> None:
    """Raises UserError, with the closest match, unless `value` is allowed."""
    if value not in allowed:
        raise UserError(
            f"{field} is {value!r}, must be one of {', '.join(allowed)}; "
            f"closest match: {closest_match(str(value), allowed)}"
        )
