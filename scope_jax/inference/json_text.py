"""Text that must be a JSON object: what may still become one, and when it is one."""

import re
from collections.abc import Callable, Sequence

_SPACE = re.compile(r"[ \t\n\r]*+")
_CHARACTERS = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+'
_STRING = re.compile(_CHARACTERS + '"')
_STRING_BEGUN = re.compile(_CHARACTERS + r"(?:\\(?:u[0-9a-fA-F]{0,3})?)?")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_NUMBER_BEGUN = re.compile(
    r"-?(?:(?:0|[1-9][0-9]*+)(?:\.[0-9]*+)?(?:(?<=[0-9])[eE][+-]?[0-9]*+)?)?"
)
_WORDS = ("true", "false", "null")


def is_object(text: str) -> bool | None:
    """True for a JSON object, False for what may become one, None for all else."""
    at, expected, ends = 0, "object", []
    while True:
        at = _SPACE.match(text, at).end()
        if at == len(text):
            return expected == "end"
        sign = text[at]
        if ends and sign == ends[-1] and expected in _MAY_CLOSE:
            ends.pop()
            at, expected = at + 1, "comma" if ends else "end"
        elif expected in _SIGNS:
            if sign != _SIGNS[expected]:
                return None
            if expected == "object":
                ends.append("}")
            at, expected = at + 1, _behind_sign(expected, ends)
        elif expected in ("value", "first value") and sign in "{[":
            ends.append("}" if sign == "{" else "]")
            at, expected = at + 1, "first key" if sign == "{" else "first value"
        elif expected == "end":
            return None
        else:
            behind = _behind(text, at, only_text="key" in expected)
            if not behind:
                return behind
            at, expected = behind, "colon" if "key" in expected else "comma"


# What is expected -> the sign that must be there.
_SIGNS = {"object": "{", "colon": ":", "comma": ","}
# Where the sign that ends an object or a list may be.
_MAY_CLOSE = ("first key", "first value", "comma")


def _behind_sign(sign: str, ends: Sequence[str]) -> str:
    """What is expected behind it."""
    if sign == "object":
        return "first key"
    return "key" if sign == "comma" and ends[-1] == "}" else "value"


def _behind(text: str, at: int, *, only_text: bool) -> int | bool | None:
    """Where a value ends that holds no others.

    Returns:
      that; False if the text ends before it does, None if it is something else.
    """
    if text[at] == '"':
        if found := _STRING.match(text, at):
            return found.end()
        return False if _STRING_BEGUN.fullmatch(text, at) else None
    if only_text:
        return None
    if text[at] in "-0123456789":
        if _NUMBER_BEGUN.fullmatch(text, at):
            return False  # more digits may follow
        found = _NUMBER.match(text, at)
        begun = _NUMBER_BEGUN.match(text, at)
        return found.end() if found and found.end() == begun.end() else None
    for word in _WORDS:
        if text.startswith(word, at):
            return at + len(word)
        if word.startswith(text[at:]):
            return False
    return None


def first_bad(
    ids: Sequence[int], count: int, decode: Callable[[Sequence[int]], str]
) -> tuple[int, bool]:
    """How many ids may stay, of which the first ``count`` may become an object.

    Returns:
      that, and whether their text is an object.
    """
    low, high = count, len(ids)  # what cannot become one stays so: a bisection
    while low < high:
        middle = (low + high + 1) // 2
        if is_object(decode(ids[:middle])) is None:
            high = middle - 1
        else:
            low = middle
    # The first of those that are one: spaces may follow it.
    whole = is_object(decode(ids[:low])) is True
    while whole and low > count and is_object(decode(ids[: low - 1])):
        low -= 1
    return low, whole
