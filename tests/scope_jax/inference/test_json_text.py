"""What may become a JSON object: against Python's own parser."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from scope_jax.inference.json_text import first_bad, is_object

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
LEAVES |= st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner)
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=2), VALUES, max_size=3)
SIGNS = '{}[]",:\\ ae1.-+0\n\x00\u00e9tfnul'


def parsed(text):
    try:
        value = json.loads(text, parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return False
    return isinstance(value, dict)


@settings(max_examples=150, deadline=None)
@given(OBJECTS, st.booleans(), st.sampled_from([None, 1]))
def test_every_beginning_of_an_object_may_become_one(value, ascii, indent):
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert is_object(text) is is_object(text + " \n") is True
    assert {is_object(text[:n]) for n in range(len(text))} == {False}


@settings(max_examples=300, deadline=None)
@given(OBJECTS, st.data())
def test_what_is_harmed_is_an_object_where_pythons_parser_says_so(value, data):
    text = json.dumps(value)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        taken = data.draw(st.integers(0, 2))
        text = text[:at] + data.draw(st.sampled_from(SIGNS)) + text[at + taken :]
    assert (is_object(text) is True) == parsed(text)
    found = [is_object(text[:n]) for n in range(len(text) + 1)]
    if None in found:  # what cannot become one stays so
        assert set(found[found.index(None) :]) == {None}
    ids = [ord(c) for c in text]
    kept, whole = first_bad(ids, 0, lambda ids: "".join(map(chr, ids)))
    if True in found:
        assert (kept, whole) == (found.index(True), True)
    else:
        good = found.index(None) - 1 if None in found else len(text)
        assert (kept, whole) == (good, False)
