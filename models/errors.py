"""The error that a person can act on."""


class UserError(ValueError):
    """Bad input of a user: one line, ``value: why: remedy``.

    Scripts print it to stderr and exit with code 2.
    """
