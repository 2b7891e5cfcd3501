"""Text of which some parts come from outside: documents, passages, tasks, answers.

Whoever puts such a part into a message says where it stands, and the chat renderer sees
to it that the part never becomes a token of the template's own (``<tool_call>``). The
places travel beside the text and not in it: a mark in the text could be forged, and
rules that change text (transformers' own ``sanitize_control_tokens`` doubles line
breaks) would change what a model wrote.
"""


class Mixed(str):
    """A string that knows which of its characters come from outside.

    It equals the plain string, and everything but ``mixed`` and ``outside`` makes plain
    strings of it, which know nothing.

    Attributes:
      spans: (start, end) of each part from outside, in order.
    """

    spans: tuple[tuple[int, int], ...]

    def __new__(cls, text: str = "", spans: tuple[tuple[int, int], ...] = ()):
        """The text and its parts from outside."""
        made = super().__new__(cls, text)
        made.spans = spans
        return made


def outside(text: str) -> Mixed:
    """``text``, all of which comes from outside."""
    return Mixed(text, ((0, len(text)),) if text else ())


def spans_of(text: str) -> tuple[tuple[int, int], ...]:
    """The parts of ``text`` that come from outside; a plain string has none."""
    return text.spans if isinstance(text, Mixed) else ()


def mixed(*parts: str) -> Mixed:
    """The parts one behind the other; each keeps what it knows."""
    spans, length = [], 0
    for part in parts:
        spans += [(length + start, length + end) for start, end in spans_of(part)]
        length += len(part)
    return Mixed("".join(parts), tuple(spans))
