"""Stop strings: found in text, because a tag's end may share a token with more text."""

from collections.abc import Sequence
from typing import Any

# For tokens that hold no text of their own, and what a decoder strips at the start.
SPARE_TOKENS = 8


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of ``ids``, special tokens included: nothing that was sampled is hidden."""
    return tokenizer.decode(list(ids), skip_special_tokens=False)


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """The index just after the stop string that is completed first, and that string."""
    ends = [(text.find(stop) + len(stop), stop) for stop in stops if stop in text]
    return min(ends, default=None)


def find_stop(
    tokenizer: Any, ids: Sequence[int], start: int, stops: Sequence[str]
) -> tuple[int, str] | None:
    """The first token of ``ids[start:]`` that completes a stop string.

    Of what came before ``start`` only the end is decoded again: where every token holds
    at least a byte, a stop string of n bytes spans at most n. (Characters won't do: one
    of Thai or Georgian may be three tokens.)

    Returns:
      (tokens up to and including it, the stop string), or None.
    """
    if not stops:
        return None
    longest = max(len(stop.encode("utf-8", "surrogatepass")) for stop in stops)
    begin = max(0, start - longest - SPARE_TOKENS)
    if first_stop(decode(tokenizer, ids[begin:]), stops) is None:
        return None
    for end in range(start + 1, len(ids) + 1):
        found = first_stop(decode(tokenizer, ids[begin:end]), stops)
        if found:
            return end, found[1]
    return None
