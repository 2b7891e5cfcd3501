"""A thousand conversations at once, finished in any order, are those played singly.

All kinds and formats mixed, both kinds of chat template, through the real driver; what
the engine says is a function of the request's seed, as the real one's is.
"""

import asyncio
import itertools
import random
from types import SimpleNamespace

import pytest

from rl.records import Completion, SamplingParams
from scope_jax.inference.batcher import SearchBatcher
from scope_jax.method import prompts
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.conversation import ConversationSpec
from scope_jax.method.types import TOOL_FORMATS
from scope_jax.selfplay.rollouts import Limits, converse
from tests.scope_jax.method.rewarded import call
from tests.scope_jax.selfplay.scripted import renderer

KINDS = ("challenger", "solver", "solver_eval", "difficulty", "task")
COUNT = 1000


class Conversation:
    """Number ``number`` of the thousand: its rules, and what its model says."""

    def __init__(self, number):
        # Five kinds and three formats: every pair occurs.
        self.kind = KINDS[number % len(KINDS)]
        self.tool_format = TOOL_FORMATS[number // len(KINDS) % len(TOOL_FORMATS)]
        self.number = number
        guided = self.kind in ("challenger", "task")
        self.spec = ConversationSpec(
            kind=self.kind,
            tool_format=self.tool_format,
            prompts=prompts.load("default", self.tool_format),
            num_searches=1 + number % 3 if guided else None,
            compat=Compat.released() if number % 7 == 0 else OFF,
        )

    def says(self, request):
        """The completion that a request gets, whenever it gets it."""
        rng = random.Random(request.seed64)
        query = f"query {rng.randrange(50)}"
        pieces = [
            "<think>why</think>",
            "hm ",
            call(self.tool_format, query),
            call(self.tool_format, query),
            call(self.tool_format, query)[:-3],
            "<task>T</task>",
            "<answer>A</answer>",
            "<answer>",
        ]
        text = "".join(rng.choices(pieces, k=rng.randint(1, 4)))
        ends = [text.find(stop) + len(stop) for stop in request.stop if stop in text]
        text = text[: min(ends)] if ends else text
        reason = rng.choices(["stop", "length", "error"], weights=[40, 4, 1])[0]
        ids = tuple(renderer(self.tool_format).encode_text(text))
        return Completion(
            ids=ids,
            logprobs=tuple(-rng.random() for _ in ids),
            text=text,
            finish_reason=reason,
        )

    async def play(self, complete, search):
        """The rollout; ``complete`` and ``search`` may take their time."""
        return await converse(
            SimpleNamespace(search=search, renderer=renderer(self.tool_format)),
            self.spec,
            [{"role": "user", "content": f"prompt {self.number}"}],
            complete=lambda request: complete(self, request),
            sampling=SamplingParams(max_new_tokens=200),
            limits=Limits(
                context=1500 if self.number % 2 else 4000,
                response=1000,
                whole_turns=self.kind == "task",
            ),
            seed=("many", self.number),
        )


def found(queries):
    return [f"all about {query} " * (1 + len(query) % 60) for query in queries]


class RandomOrder:
    """Keeps everything that is asked for, and answers it in an order of its own."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.waiting = []
        self.most = 0

    async def _later(self, answer):
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((future, answer))
        self.most = max(self.most, len(self.waiting))
        return await future

    async def complete(self, conversation, request):
        return await self._later(lambda: conversation.says(request))

    async def search(self, queries):
        return await self._later(lambda: found(queries))

    async def run(self):
        while True:
            await asyncio.sleep(0)
            # A few at a time, so that nobody is where the others are.
            for _ in range(min(len(self.waiting), self.rng.randint(1, 40))):
                index = self.rng.randrange(len(self.waiting))
                self.waiting[index], self.waiting[-1] = (
                    self.waiting[-1],
                    self.waiting[index],
                )
                future, answer = self.waiting.pop()
                future.set_result(answer())


@pytest.fixture(scope="module")
def conversations():
    return [Conversation(number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def singly(conversations):
    """Each of them alone, from beginning to end."""

    async def play():
        async def complete(conversation, request):
            return conversation.says(request)

        async def search(queries):
            return found(queries)

        return [await c.play(complete, search) for c in conversations]

    return asyncio.run(play())


@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_gives_the_same_records(conversations, singly, seed):
    async def play():
        order = RandomOrder(seed)
        scheduler = asyncio.create_task(order.run())
        rollouts = await asyncio.gather(
            *(c.play(order.complete, order.search) for c in conversations)
        )
        scheduler.cancel()
        return rollouts, order.most

    rollouts, most = asyncio.run(play())
    assert rollouts == singly
    assert most == COUNT  # all were under way at one time


def test_searches_of_many_conversations_share_a_call(conversations, singly):
    def searcher(queries, topk):
        return [[text] for text in found(queries)]

    batcher = SearchBatcher(searcher, batch=512, max_queue=COUNT)

    async def complete(conversation, request):
        await asyncio.sleep(0)
        return conversation.says(request)

    async def search(queries):
        return [text for [text] in await batcher(list(queries), 1)]

    async def play():
        return await asyncio.gather(*(c.play(complete, search) for c in conversations))

    assert asyncio.run(play()) == singly
    assert batcher.queries == sum(rollout.searches for rollout in singly)
    assert batcher.calls < batcher.queries / 20


def test_the_thousand_go_every_way(singly, conversations):
    """The comparison means something: every end, every kind of turn is among them."""
    ends = {
        (c.kind, e.finish_reason) for c, e in zip(conversations, singly, strict=True)
    }
    for kind, end in itertools.product(KINDS, ("done", "length", "error")):
        assert (kind, end) in ends
    assert {kind for kind, end in ends if end == "turns"} >= {"solver", "solver_eval"}
    notes = {line["what"] for rollout in singly for line in rollout.turn_log}
    assert len(notes) >= 10
    assert any(rollout.searches > 2 for rollout in singly)
    assert any(len(e.scored) < len(e.messages) for e in singly)
