"""The exception for mistakes that a user can fix."""

import difflib
import errno
import os
import re
from collections.abc import Sequence

# Comparing a hundred thousand characters would take a second.
_COMPARED_CHARACTERS = 100
_LONG_NAME = re.compile(r"[^\s/]{256,}")


class UserError(Exception):
    """A mistake of the user, whose message is one line that says what to do.

    The command line prints it without a traceback and exits with status 1. The message escapes line
    breaks and control characters, and shortens names longer than a file's name can be.
    """

    def __init__(self, message: str):
        message = _LONG_NAME.sub(lambda name: f"{name[0][:60]}...{name[0][-20:]}", message)
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


def system_reason(error: Exception) -> str:
    """Returns the operating system's message, which native libraries quote in their errors."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = (os.strerror(number) for number in errno.errorcode)
    return next((word for word in words if word in str(error)), describe(error))


def closest_match(name: str, allowed: Sequence[str]) -> str:
    """Returns the allowed name that is most similar to `name`."""
    name = name[:_COMPARED_CHARACTERS].lower()
    return max(allowed, key=lambda other: difflib.SequenceMatcher(None, name, other).ratio())


def check_choice(field: str, value: str, allowed: Sequence[str]) -> None:
    """Raises UserError, with the closest match, unless `value` is allowed."""
    if value not in allowed:
        raise UserError(
            f"{field} is {value!r}, must be one of {', '.join(allowed)}; "
            f"closest match: {closest_match(str(value), allowed)}"
        )
