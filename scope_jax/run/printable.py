"""Text from outside as a terminal may be shown it.

Models, documents and servers can write the characters that move a cursor, set a title
or turn a line round; rich lets most of them through.
"""

import logging


def printable(text: str) -> str:
    """The text with a space for each character that is no letter, sign or space.

    Newlines and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def one_line(text: str) -> str:
    """The same on one line."""
    return " ".join(printable(text).split())


class Formatter(logging.Formatter):
    """Log lines that do nothing to a terminal but stand there."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        return printable(super().format(record))
