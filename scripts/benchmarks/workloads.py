"""The work that benchmarks do: conversations and rollouts of random tokens, seeded.

A conversation is a prompt and turns; in each turn a fixed number of tokens is sampled
and a result of the environment is appended. Nothing here needs a library: peers read
the same conversations as JSON, in their own interpreters.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

SEED = 0


@dataclass(frozen=True)
class Turn:
    """``new`` tokens are sampled, then the tokens ``result`` are appended."""

    new: int
    result: tuple[int, ...]


@dataclass(frozen=True)
class Conversation:
    """A prompt and its turns."""

    prompt: tuple[int, ...]
    turns: tuple[Turn, ...]


def multiturn(vocab: int, *, groups: int) -> list[Conversation]:
    """Groups of 8 rollouts of one prompt: what an agent that searches does.

    Prompts of 512 tokens; 5 turns of 32 to 256 new tokens, each but the last followed
    by a result of 150.
    """
    source = random.Random(SEED)
    conversations = []
    for _ in range(groups):
        prompt = _tokens(source, vocab, 512)
        for _ in range(8):
            turns = [
                Turn(source.randint(32, 256), _tokens(source, vocab, 150 * (turn < 4)))
                for turn in range(5)
            ]
            conversations.append(Conversation(prompt, tuple(turns)))
    return conversations


def plain(vocab: int) -> list[Conversation]:
    """Equal rows, one turn: 64 tokens of prompt, 128 new ones; nothing is shared."""
    source = random.Random(SEED)
    return [
        Conversation(_tokens(source, vocab, 64), (Turn(128, ()),)) for _ in range(8)
    ]


def judge(vocab: int, *, tasks: int, shared: bool = True) -> list[Conversation]:
    """Verdicts: 8 answers per task, 5 rubrics per answer, 32 to 96 new tokens each.

    A prompt is instructions and task (256 tokens), the answer (300), the rubric (40).

    Args:
      shared: False makes the first token of each prompt its own, so that no two prompts
        begin alike: what an engine without sharing computes.
    """
    source = random.Random(SEED)
    conversations = []
    for _ in range(tasks):
        task = _tokens(source, vocab, 256)
        for _ in range(8):
            answer = _tokens(source, vocab, 300)
            for _ in range(5):
                prompt = task + answer + _tokens(source, vocab, 40)
                if not shared:
                    prompt = (1 + len(conversations), *prompt[1:])
                turn = Turn(source.randint(32, 96), ())
                conversations.append(Conversation(prompt, (turn,)))
    return conversations


def steady(vocab: int, *, rows: int, length: int, new: int) -> list[Conversation]:
    """Rows that all are about ``length`` tokens long while ``new`` are sampled."""
    source = random.Random(SEED)
    prompt = max(1, length - new // 2)
    return [
        Conversation(_tokens(source, vocab, prompt), (Turn(new, ()),))
        for _ in range(rows)
    ]


@dataclass(frozen=True)
class Rollout:
    """A finished rollout as an update sees it.

    Attributes:
      group: rollouts of one prompt have one group.
      prompt: length of the prompt, which all of a group share.
      ids: prompt, then turns: sampled tokens, and results of the environment.
      loss_mask: 1 where a token was sampled.
      advantage: of all its tokens.
      logprobs: of the tokens when they were sampled; empty if unknown.
    """

    group: int
    prompt: int
    ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    advantage: float
    logprobs: tuple[float, ...] = ()


def rollouts(vocab: int, *, groups: int) -> list[Rollout]:
    """Groups of 8 rollouts of one prompt, as long and as ragged as agents' are.

    Prompts of 128 to 256 tokens; 1 to 4 turns, mostly 2, of 24 to 128 sampled tokens;
    a result of 90 to 110 tokens after each but the last. 0.5 to 0.7 of the positions of
    16 rows padded to the longest hold a token, as in what the small world recorded.
    """
    source = random.Random(SEED)
    found = []
    for group in range(groups):
        prompt = _tokens(source, vocab, source.randint(128, 256))
        rewards = [source.random() for _ in range(8)]
        mean = statistics.fmean(rewards)
        spread = statistics.stdev(rewards)
        for reward in rewards:
            ids, mask = list(prompt), [0] * len(prompt)
            turns = source.choices(range(1, 5), weights=(3, 4, 2, 1))[0]
            for turn in range(turns):
                new = source.randint(24, 128)
                result = source.randint(90, 110) if turn + 1 < turns else 0
                ids += _tokens(source, vocab, new + result)
                mask += [1] * new + [0] * result
            found.append(
                Rollout(
                    group=group,
                    prompt=len(prompt),
                    ids=tuple(ids),
                    loss_mask=tuple(mask),
                    advantage=(reward - mean) / spread,
                )
            )
    return found


def first_turns(conversations: Sequence[Conversation]) -> list[Conversation]:
    """Each conversation's first turn only."""
    return [Conversation(one.prompt, one.turns[:1]) for one in conversations]


def useful_tokens(conversations: Sequence[Conversation]) -> int:
    """Tokens that have to be sampled."""
    return sum(turn.new for one in conversations for turn in one.turns)


def longest(conversations: Sequence[Conversation]) -> int:
    """Tokens of the longest conversation."""
    return max(
        len(one.prompt) + sum(turn.new + len(turn.result) for turn in one.turns)
        for one in conversations
    )


def as_json(conversations: Sequence[Conversation]) -> list[dict]:
    """The conversations as peers read them."""
    return [asdict(one) for one in conversations]


def _tokens(source: random.Random, vocab: int, count: int) -> tuple[int, ...]:
    # 0 is what some peers pad with.
    return tuple(source.randrange(1, vocab) for _ in range(count))
