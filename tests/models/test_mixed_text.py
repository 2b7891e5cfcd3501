"""Text that knows which of its parts come from outside."""

import copy
import json
import pickle

from models.mixed_text import mixed, outside, spans_of


def test_parts_keep_what_they_know():
    text = mixed("ab", outside("cd"), "", mixed("e", outside("f")))
    assert text == "abcdef" and json.dumps(text) == '"abcdef"'
    assert spans_of(text) == ((2, 4), (5, 6))
    assert spans_of(mixed()) == spans_of(outside("")) == spans_of("plain") == ()


def test_copies_know_it_too_and_other_strings_made_of_it_do_not():
    """Rollouts go from process to process."""
    text = mixed("a", outside("b"))
    for same in (
        copy.copy(text),
        copy.deepcopy(text),
        pickle.loads(pickle.dumps(text)),
    ):
        assert same == text and spans_of(same) == ((1, 2),)
    assert spans_of(text + "c") == spans_of(text.strip()) == spans_of(str(text)) == ()
