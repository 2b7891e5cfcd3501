"""AXPO: where all who searched have failed, other searches from the same beginning.

A group's rollouts that call the search tool have all failed: then the least sure of
their first calls is taken back to its opening tag, and the rest is sampled anew, K
times. The new ones are a group of their own. The source keeps the tokens up to the tag,
which are credited with the best that came of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

from models.errors import UserError
from models.ranges import NOT_NEGATIVE, CountOrZero, Share, check_fields
from rl.records import Completion, Datum
from scope_jax.method import formats
from scope_jax.method.types import ToolFormat


@dataclass(frozen=True, kw_only=True)
class ResamplingConfig:
    """Other searches where all who searched have failed (AXPO)."""

    count: CountOrZero = 0
    """K, continuations that are sampled, 2 at least; AXPO has 4. 0: off."""
    fail: Share = 0.2
    """Rubric score below which a rollout has failed: the lower end of the scores at
    which tasks are kept."""
    gain: Annotated[float, NOT_NEGATIVE] = 0.1
    """How far the best continuation's reward must exceed the source's to be credited:
    scores are no verdicts of right and wrong, and a best of K is above by chance."""

    def __post_init__(self):
        check_fields(self)
        if self.count == 1:
            raise UserError(
                "count=1: one continuation is a group of its own and has nothing to be "
                "compared with: give 2 or more, or 0"
            )


class Prefix(NamedTuple):
    """The beginning of a rollout, up to the opening tag of its first call.

    Attributes:
      begun: the sampled tokens up to the one that completes the tag.
      sureness: mean probability of the tokens of the call behind it.
    """

    begun: Completion
    sureness: float


def triggered(searched: Sequence[bool], scores: Sequence[float], fail: float) -> bool:
    """Whether any rollout has searched, and all that did have failed."""
    of_tool = [score for own, score in zip(searched, scores, strict=True) if own]
    return bool(of_tool) and all(score < fail for score in of_tool)


def prefix(
    datums: Sequence[Datum],
    tool_format: ToolFormat,
    decode: Callable[[Sequence[int]], str],
) -> Prefix | None:
    """The beginning of a rollout whose first turn is a call; None of any other.

    Tokens are cut, never text: the last one is that which completes the tag.
    """
    first = next((datum for datum in datums if datum.turn == 0), None)
    if first is None or 1 not in first.sampled_mask:
        return None
    start = first.loss_mask.index(1)
    if not first.sampled_mask[start]:  # the template wrote the turn anew
        return None
    stop = start
    while stop < len(first.ids) and first.sampled_mask[stop]:
        stop += 1
    ids, logprobs = first.ids[start:stop], first.logprobs[start:stop]
    end = call_start(decode(ids), tool_format)
    if end is None:
        return None
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if len(decode(ids[:middle])) >= end else (middle + 1, high)
        )
    call = logprobs[low:]
    if not call:
        return None
    begun = Completion(
        ids=ids[:low],
        logprobs=logprobs[:low],
        text=decode(ids[:low]),
        finish_reason="stop",
    )
    return Prefix(begun, sum(map(math.exp, call)) / len(call))


def call_start(text: str, tool_format: ToolFormat) -> int | None:
    """The place just behind the opening tag of a turn's first call."""
    tag = formats.SEARCH_TAG[tool_format]
    behind = 0 if tool_format == "search_r1" else text.rfind("</think>") + 1
    found = formats.first_pair(text[behind:], tag)
    return None if found is None else behind + found.start + len(f"<{tag}>")


def credit(source: float, resampled: Sequence[float], gain: float) -> float:
    """The reward that a source's prefix has in the source's own group.

    Formula:
      A_k = (r_k - mean_K) / std_K on what was resampled;
      r_prefix = max_k r_k if that is > r + 0.1, else r, in the group of the source,
      on the prefix only; if all who searched have g < 0.2

    References:
      AXPO (arXiv 2605.28774); its rewards are 0 and 1
    """
    best = max(resampled)
    return best if best > source + gain else source


def only_prefix(datums: Sequence[Datum], count: int) -> tuple[Datum, ...]:
    """The source's data with its first ``count`` sampled tokens in the loss alone."""
    return tuple(
        _masked(datum, lambda place: place < count)
        for datum in datums
        if datum.turn == 0
    )


def without_prefix(datums: Sequence[Datum], count: int) -> tuple[Datum, ...]:
    """A continuation's data without the tokens that it was begun with."""
    return tuple(
        _masked(datum, lambda place: place >= count) if datum.turn == 0 else datum
        for datum in datums
    )


def _masked(datum: Datum, kept: Callable[[int], bool]) -> Datum:
    """A datum with those tokens of its response in the loss; the first is 0.

    One without a response, whose first completion has failed, stays as it is.
    """
    if 1 not in datum.loss_mask:
        return datum
    start = datum.loss_mask.index(1)
    keep = [place >= start and kept(place - start) for place in range(len(datum.ids))]
    return replace(
        datum,
        loss_mask=_where(keep, datum.loss_mask, 0),
        sampled_mask=_where(keep, datum.sampled_mask, 0),
        logprobs=_where(keep, datum.logprobs, math.nan),
    )


def _where(keep: Sequence[bool], values: Sequence, other: float) -> tuple:
    return tuple(v if k else other for k, v in zip(keep, values, strict=True))
