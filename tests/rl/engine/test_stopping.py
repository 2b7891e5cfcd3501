"""Stop strings are found, whatever their script and however tokens cut them."""

import random

import pytest

from rl.engine.stopping import find_stop


class Pieces:
    """Ids are numbers of pieces of UTF-8, which may end inside a character."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids, skip_special_tokens=False):
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")


def step_by_step(tokenizer, count, stops, steps):
    """What an engine finds that samples ``steps`` tokens between two looks."""
    for start in range(0, count, steps):
        ids = list(range(min(start + steps, count)))
        if found := find_stop(tokenizer, ids, start, stops):
            return found
    return None


WORDS = [
    "</answer>",
    "หยุดตรงนี้",
    "დასრულდა",
    "ସମାପ୍ତ",
    "ပြီးပါပြီ",
    "ተጠናቋል",
    "終わり",
    "🛑🛑",
]


@pytest.mark.parametrize("steps", [1, 4, 32])
@pytest.mark.parametrize("longest", [1, 2, 5])
def test_a_stop_string_ends_at_its_last_byte(longest, steps):
    draw = random.Random(longest * 100 + steps)
    for stop in WORDS:
        for _ in range(5):
            before = "".join(draw.choices("aé ไทย\n😀", k=draw.randrange(60)))
            text = (before + stop + "x" * 9).encode()
            end = len((before + stop).encode())
            pieces, at = [], 0
            while at < len(text):
                size = draw.randint(1, longest)
                pieces.append(text[at : at + size])
                at += size
            needed = next(
                n for n in range(len(pieces) + 1) if sum(map(len, pieces[:n])) >= end
            )
            found = step_by_step(
                Pieces(pieces), len(pieces), [stop, "not there"], steps
            )
            assert found == (needed, stop)


def test_a_stop_string_that_is_no_text_is_never_found():
    assert step_by_step(Pieces([b"a"] * 20), 20, ["\ud800"], 1) is None
