"""AXPO's parts by hand: what triggers it, where a call begins, masks and credit."""

import math

import numpy as np
import pytest

from rl.learner.advantages import group_advantages
from rl.records import Datum
from scope_jax.method import axpo

PROMPT = "ask"


def decode(ids):
    return "".join(map(chr, ids))


def datum(*turns, turn=0, logprobs=None):
    """A datum of bytes: a prompt, then turns, each closed by a token nobody sampled."""
    ids, loss, sampled = [*map(ord, PROMPT)], [0] * len(PROMPT), [0] * len(PROMPT)
    for text in turns:
        ids += [*map(ord, text), ord("|")]
        loss += [1] * (len(text) + 1)
        sampled += [1] * len(text) + [0]
        ids, loss, sampled = [*ids, ord("r")], [*loss, 0], [*sampled, 0]
    values = logprobs or {}
    given = [
        values.get(place, -1.0) if own else math.nan
        for place, own in enumerate(sampled)
    ]
    return Datum(
        uid="u",
        turn=turn,
        ids=tuple(ids),
        loss_mask=tuple(loss),
        sampled_mask=tuple(sampled),
        logprobs=tuple(given),
    )


@pytest.mark.parametrize(
    "searched, scores, expected",
    [
        ([True, True, False], [0.1, 0.19, 1.0], True),
        ([True, True, False], [0.1, 0.2, 0.0], False),
        ([False, False], [0.0, 0.0], False),
    ],
)
def test_it_is_triggered_where_all_who_searched_have_failed(searched, scores, expected):
    assert axpo.triggered(searched, scores, 0.2) is expected


@pytest.mark.parametrize(
    "text, tool_format, begun",
    [
        ("<think>t</think><search>q</search>", "search_r1", "<think>t</think><search>"),
        ("<answer>a</answer>", "search_r1", None),
        ("<search>q", "search_r1", None),
        (
            "<think><tool_call>x</tool_call></think><tool_call>{}</tool_call>",
            "tool_call",
            "<think><tool_call>x</tool_call></think><tool_call>",
        ),
        (
            "so <function_calls>search()</function_calls>",
            "function_calls_xml",
            "so <function_calls>",
        ),
    ],
)
def test_a_beginning_ends_with_the_opening_tag_of_the_first_call(
    text, tool_format, begun
):
    found = axpo.prefix([datum(text, "more")], tool_format, decode)
    assert (found.begun.text if found else None) == begun
    if found:
        assert decode(found.begun.ids) == begun
        assert found.begun.logprobs == (-1.0,) * len(begun)


def test_the_token_that_completes_a_tag_is_kept_whole():
    """The last token of the tag spells what follows it, too."""
    pieces = ["<search", ">q", "q</search>"]
    whole = Datum(
        uid="u",
        turn=0,
        ids=(9, 0, 1, 2),
        loss_mask=(0, 1, 1, 1),
        sampled_mask=(0, 1, 1, 1),
        logprobs=(math.nan, -1.0, -2.0, -3.0),
    )
    found = axpo.prefix(
        [whole], "search_r1", lambda ids: "".join(pieces[i] for i in ids)
    )
    assert (found.begun.ids, found.begun.text) == ((0, 1), "<search>q")
    assert found.sureness == pytest.approx(math.exp(-3))


def test_sureness_is_the_mean_probability_of_the_call_alone():
    """Four tokens behind the tag: two of 1/2, two of 1/4."""
    text = "<search>" + "qq"
    start = len(PROMPT) + len("<search>")
    halves = {start + i: math.log(p) for i, p in enumerate((0.5, 0.5, 0.25, 0.25))}
    end = len(PROMPT) + len("<search>qq</search>")
    rest = {place: 0.0 for place in range(start + 4, end)}
    found = axpo.prefix(
        [datum(text + "</search>", logprobs=halves | rest)], "search_r1", decode
    )
    assert found.sureness == pytest.approx((0.5 + 0.5 + 0.25 + 0.25 + 7) / 11)


def test_a_turn_that_the_template_has_written_anew_has_no_beginning():
    anew = datum("<search>q</search>")
    anew = Datum(**vars(anew) | {"sampled_mask": (0,) * len(anew.ids)})
    assert axpo.prefix([anew], "search_r1", decode) is None
    assert (
        axpo.prefix([datum("<search>q</search>", turn=1)], "search_r1", decode) is None
    )
    assert axpo.prefix([], "search_r1", decode) is None


def test_the_source_is_trained_on_its_prefix_and_a_continuation_on_the_rest():
    """Bytes: prompt 3, first turn 5 with a closing one, a result, second turn."""
    whole = datum("abcde", "fg")
    later = datum("hi", turn=1)
    [source] = axpo.only_prefix([whole, later], 2)
    assert source.loss_mask == (0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert source.sampled_mask == source.loss_mask
    assert [lp == -1.0 for lp in source.logprobs] == [bool(m) for m in source.loss_mask]
    first, second = axpo.without_prefix([whole, later], 2)
    assert first.loss_mask == (0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 0)
    assert first.sampled_mask == (0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0)
    assert second == later
    assert source.ids == first.ids == whole.ids


def test_advantages_of_a_group_with_its_resamples():
    """Source 0.2 in a group with 0.2 and 0.6; two new ones earn 0.5 and 0.9.

    The prefix counts 0.9: mean 17/30 and std sqrt(37/300) of (0.9, 0.2, 0.6). The
    new ones by themselves: 0.7 and sqrt(0.08).
    """
    credited = axpo.credit(0.2, [0.5, 0.9], 0.1)
    assert credited == 0.9
    rewards, groups = [credited, 0.2, 0.6, 0.5, 0.9], [0, 0, 0, -1, -1]
    found = group_advantages(rewards, groups)
    std = math.sqrt(37 / 300)
    expected = [(r - 17 / 30) / std for r in rewards[:3]]
    expected += [-0.2 / math.sqrt(0.08), 0.2 / math.sqrt(0.08)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_best_that_is_hardly_better_is_not_credited():
    assert axpo.credit(0.2, [0.3, 0.1], 0.1) == 0.2
    assert axpo.credit(0.2, [0.31, 0.1], 0.1) == 0.31
