"""The exception for errors that the user can fix, and one-line error messages."""


class UserError(ValueError):
    """The user's input is wrong. The message is one line, ``value: why: remedy``.

    Scripts print it as ``error: ...`` and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's error message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
