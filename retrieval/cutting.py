"""Cuts long texts into passages: whole paragraphs where they fit, else by tokens."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from retrieval.config import RetrievalConfig
from retrieval.lexical import WORD

Span = tuple[int, int]
"""First character, and the one behind the last."""

BLANK = re.compile(r"\n[^\S\n]*\n\s*")


def cut(
    text: str, tokens: Sequence[Span], *, most: int, overlap: int, paragraphs: bool
) -> list[Span]:
    """Pieces of a text, in its order; together they have all of its tokens.

    Args:
      tokens: where each token is.
      most: tokens of a piece.
      overlap: most tokens that a piece repeats of the one before it, where a paragraph
        (or the whole text) has to be cut inside; fewer, down to none, so that pieces
        begin with whole words.
      paragraphs: put as many whole paragraphs (parted by blank lines) into a piece as
        fit; a longer one is cut by tokens.
    """
    if len(tokens) <= most:
        return [_trimmed(text, 0, len(text))]
    starts = [start for start, _ in tokens]
    pieces: list[Span] = []
    first = last = 0  # tokens of the paragraphs that are gathered
    for end in [*_paragraph_ends(text), len(text)] if paragraphs else [len(text)]:
        behind = bisect_left(starts, end)
        if behind - first > most:
            if last > first:
                pieces.append(_piece(text, tokens, first, last))
            first = last
            if behind - first > most:
                pieces += [
                    _piece(text, tokens, a, b)
                    for a, b in _windows(text, tokens, first, behind, most, overlap)
                ]
                first = behind
        last = behind
    if last > first:
        pieces.append(_piece(text, tokens, first, last))
    return pieces


def _paragraph_ends(text: str) -> Iterator[int]:
    return (match.start() for match in BLANK.finditer(text))


def _windows(
    text: str, tokens: Sequence[Span], first: int, behind: int, most: int, overlap: int
) -> Iterator[Span]:
    """Ranges of tokens, each with at most the last ``overlap`` of the one before.

    They begin and end where words do, unless a word is too long for that. Each begins
    at least ``most - overlap`` tokens after the one before, or where that one ends, and
    ends behind it: in a long run without white space, ends that went back to one place
    would leave every suffix of the run as a passage.
    """
    end = first
    while behind - first > most:
        end = _word_start(text, tokens, range(first + most, end, -1), first + most)
        yield first, end
        step = min(first + most - overlap, end)
        first = _word_start(text, tokens, range(step, end + 1), step)
    yield first, behind


def _word_start(
    text: str, tokens: Sequence[Span], numbers: Iterable[int], otherwise: int
) -> int:
    """The first of these tokens that begins a word, if there is one."""
    begins = (n for n in numbers if text[tokens[n][0] - 1].isspace())
    return next(begins, otherwise)


def _piece(text: str, tokens: Sequence[Span], first: int, last: int) -> Span:
    """From the first token of a piece to where the next one's first begins."""
    end = tokens[last][0] if last < len(tokens) else len(text)
    start = tokens[first][0] if first else 0
    return _trimmed(text, start, end)


def _trimmed(text: str, start: int, end: int) -> Span:
    """The span without white space at its ends."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, max(start, start + len(piece.strip()))


def token_spans(config: RetrievalConfig) -> Callable[[str], list[Span]]:
    """What finds the tokens of a text: those of the transformer encoder, else words.

    Raises:
      UserError: the encoder's tokenizer can't be loaded.
    """
    if config.encoder == "lexical":
        return lambda text: [match.span() for match in WORD.finditer(text)]
    from models.hf import load_tokenizer
    from retrieval.encoders import plain_tokenizer

    tokenizer = plain_tokenizer(load_tokenizer(config.encoder_path))
    return lambda text: [
        (start, end)
        for start, end in tokenizer.encode(text, add_special_tokens=False).offsets
        if end > start
    ]
