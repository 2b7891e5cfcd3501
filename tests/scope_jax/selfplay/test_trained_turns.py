"""A rollout's record says of each turn what is trained on, and how strongly.

The oracle is the loss mask of the training data itself.
"""

from dataclasses import replace

import pytest

from rl.learner import packing
from scope_jax.method.compat import Compat
from scope_jax.selfplay.estimates import advantages, with_advantages
from tests.scope_jax.selfplay.test_rollouts import (
    CLOSING,
    GUIDED,
    play,
    rerendering,
    running,
)

__all__ = ["rerendering", "running"]  # fixtures


def trained_text(rollout):
    """What a reader is shown as trained on: by message, its characters."""
    found = {}
    for index, turn in rollout.trained:
        text = rollout.messages[index]["content"]
        if turn.trained:
            found[index] = text[turn.start : turn.end]
    return found


def test_every_turn_is_trained_on_whole(running):
    rollout, _ = play(running, GUIDED)
    assert [index for index, _ in rollout.trained] == [1, 3, 5]
    counts = [len(text) + CLOSING for text in GUIDED]  # a byte a token
    assert [turn.tokens for _, turn in rollout.trained] == counts
    assert [turn.trained for _, turn in rollout.trained] == counts
    assert list(trained_text(rollout).values()) == list(GUIDED)


@pytest.mark.parametrize("limit", [1, 5, 20, 21, 22, 30, 120, 200, 1000])
def test_what_a_limit_cuts_off_is_not_shown_as_trained(running, limit):
    rollout, _ = play(running, GUIDED, response=limit)
    [datum] = rollout.datums
    mask = datum.loss_mask
    assert sum(turn.trained for _, turn in rollout.trained) == sum(mask)
    ids = [token for token, loss in zip(datum.ids, mask, strict=True) if loss]
    shown = "".join(trained_text(rollout).values())
    assert running.decode(ids).replace("<|im_end|>\n", "").startswith(shown)
    assert len(running.decode(ids)) - len(shown) <= len("<|im_end|>\n") * 3


def test_what_has_slid_out_of_the_context_is_not_shown_as_trained(running):
    whole, _ = play(running, GUIDED)
    last = len(whole.datums[0].ids) - (len(GUIDED[2]) + CLOSING)
    rollout, _ = play(
        running,
        GUIDED,
        context=last + 1,
        response=60,
        compat=Compat(sliding_context=True),
    )
    [datum] = rollout.datums
    assert sum(turn.trained for _, turn in rollout.trained) == sum(datum.loss_mask)
    assert rollout.trained[0][1].trained == 0


@pytest.mark.quirk(48)
def test_the_first_token_of_a_context_that_slid_is_not_trained_on(running):
    """It may be one that was sampled, and nothing is left that predicts it."""
    whole, _ = play(running, GUIDED)
    [datum] = whole.datums
    last = len(datum.ids) - (len(GUIDED[2]) + CLOSING)
    inside = 0
    for response in range(20, last, 3):
        slid, _ = play(
            running,
            GUIDED,
            context=last + 1,
            response=response,
            compat=Compat(sliding_context=True),
        )
        [cut] = slid.datums
        start = last - (response - 1)
        assert cut.ids == datum.ids[start:][:response]
        assert cut.loss_mask == (0, *datum.loss_mask[start + 1 :][: response - 1])
        assert sum(turn.trained for _, turn in slid.trained) == sum(cut.loss_mask)
        packing.pack([cut], rows=1, length=1024)
        inside += datum.sampled_mask[start]
    assert inside > 3


def test_a_turn_without_a_datum_is_trained_on_not_at_all(rerendering):
    cut = "<think>no end"
    rollout, _ = play(rerendering, [cut, *GUIDED[1:]])
    assert rollout.left_out == 1
    first, *others = [turn for _, turn in rollout.trained]
    assert (first.trained, first.end) == (0, 0)
    assert all(turn.trained == turn.tokens for turn in others)
    loss = sum(sum(datum.loss_mask) for datum in rollout.datums)
    assert sum(turn.trained for _, turn in rollout.trained) == loss


def test_the_record_has_the_advantage_that_is_trained_with(running):
    rollout, _ = play(running, GUIDED)
    rollouts = [
        replace(rollout, reward=reward, group=group)
        for reward, group in ((0.0, 0), (1.0, 0), (0.5, 1), (0.5, 1))
    ]
    found = advantages(rollouts)
    # (r - mean) / standard deviation with divisor G - 1: 0.5 / sqrt(0.5)
    assert found == pytest.approx([-(0.5**0.5), 0.5**0.5, 0, 0], abs=1e-5)
    assert [datum.advantage for datum in with_advantages(rollouts)] == found
    record = rollouts[1].json(found[1])
    assert record["advantage"] == found[1]
    assert record["trained"][0] == {
        "message": 1,
        "advantage": found[1],
        "tokens": len(GUIDED[0]) + CLOSING,
        "trained": len(GUIDED[0]) + CLOSING,
        "start": 0,
        "end": None,
    }
    assert "seconds" not in record
