"""The one exception that means "what you gave us cannot be used"."""


class UserError(ValueError):
    """A user's input is wrong: one line, ``value: why: remedy``.

    Scripts print it as ``error: ...`` and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """Returns what another library's error says, cut to one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
