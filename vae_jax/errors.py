"""The one exception this package raises for mistakes a user can mend."""


class UserError(Exception):
    """A mistake in what the user gave: the message is one line that says what to do.

    The command line prints the message without a traceback and exits with status 1.
    """
