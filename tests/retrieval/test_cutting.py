"""Long texts are cut into passages: every token is in one, and none is in another."""

import itertools

import numpy as np
import pytest

from retrieval import cutting


def assert_none_is_inside_its_neighbour(pieces):
    for (a, b), (c, d) in itertools.pairwise(pieces):
        assert a < c and b < d


def test_cutting_keeps_every_token_and_no_piece_is_too_long():
    random = np.random.default_rng(0)
    for _ in range(300):
        words = random.choice(["a", "bcd", "e-f", "g.", "\n\n", "\n", "é"], 40)
        text = " ".join(words)
        most = int(random.integers(1, 9))
        overlap = int(random.integers(0, most))
        for paragraphs in (False, True):
            spans = [m.span() for m in cutting.WORD.finditer(text)]
            options = {"most": most, "overlap": overlap, "paragraphs": paragraphs}
            pieces = cutting.cut(text, spans, **options)
            inside = [[s for s in spans if a <= s[0] and s[1] <= b] for a, b in pieces]
            assert {s for piece in inside for s in piece} == set(spans)
            assert all(len(piece) <= most for piece in inside)
            assert_none_is_inside_its_neighbour(pieces)
            if not overlap:
                assert sum(map(len, inside)) == len(spans)


@pytest.mark.parametrize("paragraphs", [False, True])
def test_long_runs_without_white_space_are_cut_once(paragraphs):
    """A token is a character, as of Chinese; a run may be longer than a piece."""
    random = np.random.default_rng(1)
    for _ in range(100):
        text = " ".join("x" * n for n in random.integers(1, 60, 20))
        spans = [(i, i + 1) for i, letter in enumerate(text) if letter != " "]
        most = int(random.integers(2, 40))
        overlap = int(random.integers(1, most))
        options = {"most": most, "paragraphs": paragraphs}
        pieces = cutting.cut(text, spans, overlap=overlap, **options)
        assert_none_is_inside_its_neighbour(pieces)
        without = cutting.cut(text, spans, overlap=0, **options)
        assert len(pieces) <= len(without) + len(spans) / (most - overlap)
        sizes = [len(text[a:b].replace(" ", "")) for a, b in pieces]
        assert sum(sizes) <= len(spans) + overlap * (len(pieces) - 1)
