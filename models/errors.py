"""The one exception that means "what you gave us cannot be used"."""


class UserError(ValueError):
    """A user's input is wrong: one line, ``value: why: remedy``.

    Scripts print it as ``error: ...`` and exit with status 2.
    """
