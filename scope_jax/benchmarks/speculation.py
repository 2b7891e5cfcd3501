"""Speculation by prompt lookup: tokens a step, replayed from what runs recorded.

A draft is what followed the latest earlier occurrence of the last n tokens; a drafted
token is accepted exactly when it equals what its own position's key samples. So what
was sampled says what would have been accepted, whatever the temperature, and no model
has to run. A batch waits for nobody: each row goes on by its own number of tokens a
step, so that its gain is the mean. What a step costs more is not in these figures.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import UserError
from scope_jax.benchmarks import harness
from scope_jax.benchmarks.recorded import Recorded, Sampled

LONGEST = 4
DRAFTS = range(1, 9)
# Longest and shortest n-gram that is looked up, the longest first.
GRAMS = [(m, n) for m in range(1, LONGEST + 1) for n in range(1, m + 1)]


@dataclass(frozen=True)
class Count:
    """Verification steps, how many had a draft, and what they brought."""

    steps: int = 0
    drafts: int = 0
    tokens: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.steps + other.steps,
            self.drafts + other.drafts,
            self.tokens + other.tokens,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument(
        "--rollouts",
        action="append",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="replay what the run in this folder recorded; may be given again",
    )


def run(args: argparse.Namespace) -> harness.Result:
    """Tokens a step of every run, role and temperature in the notes."""
    if args.peer:
        raise UserError(
            f"--peer {args.peer[0]}: there is none to compare: leave it out"
        )
    notes: dict[str, Any] = {}
    count, spent = 0, 0.0
    for folder in args.rollouts:
        groups: dict[str, list[Sampled]] = defaultdict(list)
        noted: dict[str, int] = defaultdict(int)
        encoded: dict[str, int] = defaultdict(int)
        for stage, tokens, found in Recorded(folder).completions():
            for one in found:
                groups[f"{one.role}, temperature {one.temperature:g}"].append(one)
                if tokens and not one.role.startswith("judge"):
                    encoded[stage] += len(one.ids) - one.start
            noted[stage] += tokens
        for stage in encoded:
            notes[f"{folder.name}, {stage}: tokens encoded, sampled"] = [
                encoded[stage],
                noted[stage],
            ]
        for name, group in groups.items():
            started = time.perf_counter()
            found = replay(group)
            spent += time.perf_counter() - started
            count += sum(len(one.ids) - one.start for one in group)
            notes[f"{folder.name}, {name}"] = shown(group, found)
    return harness.Result(
        what=f"speculation: {len(args.rollouts)} recorded runs, replayed with "
        f"{len(GRAMS)} ways of looking up and drafts of 1 to {DRAFTS[-1]}",
        unit="tokens",
        amount=count,
        seconds={"ours": [spent]},
        notes=notes,
    )


def replay(group: Iterable[Sampled]) -> dict[tuple[int, int, int], Count]:
    """What each (longest, shortest, draft length) gives over all of ``group``."""
    total: dict[tuple[int, int, int], Count] = defaultdict(Count)
    for one in group:
        found = sources(one.ids, one.start)
        for longest, shortest in GRAMS:
            chosen = _longest_first(found[shortest - 1 : longest])
            for length in DRAFTS:
                key = longest, shortest, length
                total[key] += speculate(one.ids, one.start, chosen, length)
    return total


def sources(ids: Sequence[int], start: int) -> list[list[int]]:
    """Where the latest earlier occurrence of the tokens before a position ends.

    Args:
      ids: prompt and completion.
      start: where the completion begins.

    Returns:
      for n = 1 .. LONGEST and each position from ``start`` (0 before it): the position
      behind the latest earlier occurrence of the last n tokens; 0: there is none.
    """
    found = []
    for n in range(1, LONGEST + 1):
        seen: dict[tuple[int, ...], int] = {}
        row = [0] * len(ids)
        for end in range(n, len(ids)):
            gram = tuple(ids[end - n : end])
            if end >= start:
                row[end] = seen.get(gram, 0)
            seen[gram] = end
        found.append(row)
    return found


def _longest_first(found: Sequence[Sequence[int]]) -> list[int]:
    """Of each position the source of the longest n-gram that has one."""
    return [next(filter(None, reversed(at)), 0) for at in zip(*found, strict=True)]


def speculate(
    ids: Sequence[int], start: int, chosen: Sequence[int], length: int
) -> Count:
    """One completion, whose first token comes with its prompt.

    Every step brings the accepted tokens of a draft of ``length`` and the one that is
    sampled behind them, or no more than are left. A draft that reaches its own
    beginning goes on with itself: with "a b" before it, it is "a b a b ..", so that its
    token i is always the one at source + i.
    """
    at, end, steps, drafts = start + 1, len(ids), 0, 0
    while at < end:
        steps += 1
        accepted = 0
        if source := chosen[at]:
            drafts += 1
            most = min(length, end - at)
            while accepted < most and ids[source + accepted] == ids[at + accepted]:
                accepted += 1
        at += accepted + 1
    return Count(steps, drafts, max(end - start - 1, 0))


def shown(
    group: Sequence[Sampled], found: dict[tuple[int, int, int], Count]
) -> dict[str, Any]:
    """What the report says of a group, by the n-grams that are looked up."""
    rates, shares = {}, {}
    for longest, shortest in GRAMS:
        counts = [found[longest, shortest, length] for length in DRAFTS]
        name = f"n {longest} to {shortest}"
        rates[name] = [round(c.tokens / max(c.steps, 1), 3) for c in counts]
        shares[name] = round(counts[-1].drafts / max(counts[-1].steps, 1), 3)
    return {
        "completions": len(group),
        "tokens": sum(len(one.ids) - one.start for one in group),
        f"tokens a step, k {DRAFTS[0]} .. {DRAFTS[-1]}": rates,
        f"share of steps with a draft, k {DRAFTS[-1]}": shares,
    }
