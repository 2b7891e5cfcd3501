"""The exceptions that end a program with one line, and one-line error messages."""

from pathlib import Path


class UserError(ValueError):
    """The user's input is wrong. The message is one line, ``value: why: remedy``.

    Scripts print it as ``error: ...`` and exit with status 2.
    """


class DamagedError(UserError):
    """A stored file is not what was written, or is gone.

    Attributes:
      file: which.
    """

    def __init__(self, file: str | Path, why: str, remedy: str = "restore the file"):
        super().__init__(f"{file}: {why}: {remedy}")
        self.file, self.why, self.remedy = Path(file), why, remedy

    def __reduce__(self):
        # As the arguments, not as the message that they make.
        return type(self), (self.file, self.why, self.remedy)


class StorageError(Exception):
    """The disk refuses a write: full, over quota, read-only, forbidden or broken.

    Nothing is wrong with the command: it goes on where it stopped once the disk takes
    it. Scripts print one line and exit with status 1.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's error message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
