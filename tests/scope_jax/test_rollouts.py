"""Conversations driven to their end: what is trained on is exactly what was sampled."""

import asyncio
import itertools
import json
import math

import pytest

from models.chat import ChatRenderer
from rl.records import Completion, SamplingParams
from rl.sampling import seed64
from scope_jax import prompts
from scope_jax.compat import OFF, Compat
from scope_jax.conversation import ConversationSpec
from scope_jax.rollouts import Limits, converse
from tests.scope_jax.inference_world import byte_tokenizer

D = "passage"


@pytest.fixture(scope="module")
def running():
    return ChatRenderer.from_tokenizer(byte_tokenizer())


@pytest.fixture(scope="module")
def rerendering():
    return ChatRenderer.from_tokenizer(
        byte_tokenizer(), template="qwen3_strip_thinking"
    )


class Script:
    """An engine that says what it is told to; it keeps the requests that it got."""

    def __init__(self, renderer, texts, *, stop_id=False):
        self.renderer, self.texts, self.requests = renderer, list(texts), []
        self.stop_id = stop_id

    async def __call__(self, request):
        self.requests.append(request)
        text = self.texts.pop(0)
        ids = list(self.renderer.encode_text(text))
        if self.stop_id:
            ids.append(self.renderer.stop_ids[0])
        logprobs = tuple(-float(i + 1) for i in range(len(ids)))
        return Completion(
            ids=tuple(ids), logprobs=logprobs, text=text, finish_reason="stop"
        )


async def search(queries):
    return [f"{D} {query}" for query in queries]


def play(
    renderer,
    texts,
    *,
    kind="challenger",
    tool_format="search_r1",
    n=2,
    context=10_000,
    response=10_000,
    stop_id=False,
    whole_turns=False,
    compat=OFF,
):
    script = Script(renderer, texts, stop_id=stop_id)
    spec = ConversationSpec(
        kind=kind,
        tool_format=tool_format,
        prompts=prompts.load("default", tool_format),
        num_searches=n,
        compat=compat,
    )
    work = converse(
        spec,
        [{"role": "user", "content": "prompt"}],
        complete=script,
        search=search,
        renderer=renderer,
        sampling=SamplingParams(max_new_tokens=50),
        limits=Limits(context=context, response=response, whole_turns=whole_turns),
        uid="1/challenger/0/0/0",
        seed=("a", 1),
    )
    return asyncio.run(work), script


GUIDED = ("<search>q1</search>", "<search>q2</search>", "<task>T</task>")
CLOSING = 2  # tokens that close a turn


def test_loss_segments_of_example_77(running):
    """Assistant content and its closing count; user turns and role lines do not."""
    episode, _ = play(running, GUIDED)
    assert episode.finish == "done"
    [row] = episode.rows
    segments, current = [], None
    for token, loss in zip(row.ids, row.loss_mask, strict=True):
        if loss != current:
            segments.append((loss, []))
            current = loss
        segments[-1][1].append(token)
    trained = [running.decode(ids) for loss, ids in segments if loss]
    assert trained == [text + "<|im_end|>\n" for text in GUIDED]
    left_out = [running.decode(ids) for loss, ids in segments if not loss]
    assert all(text.endswith("<|im_start|>assistant\n") for text in left_out)
    assert f"<information>{D} q1</information>" in left_out[1]


def test_row_is_the_conversation_as_the_template_renders_it(running):
    episode, script = play(running, GUIDED)
    [row] = episode.rows
    assert running.decode(row.ids) == running.render(episode.state.messages)
    # every prompt continues the ids before it: nothing is encoded twice
    prompts_sent = [request.ids for request in script.requests]
    for earlier, later in itertools.pairwise(prompts_sent):
        assert later[: len(earlier)] == earlier
    assert row.ids[: len(prompts_sent[-1])] == prompts_sent[-1]


def test_sampled_tokens_keep_their_logprobs_and_no_other_token_has_one(running):
    [row] = play(running, GUIDED)[0].rows
    for loss, sampled, logprob in zip(
        row.loss_mask, row.sampled_mask, row.logprobs, strict=True
    ):
        assert sampled <= loss
        assert math.isnan(logprob) != bool(sampled)
    assert sum(row.sampled_mask) == sum(map(len, GUIDED))  # a byte a token


def test_a_sampled_stop_id_is_trained_as_sampled_and_not_doubled(running):
    plain = play(running, GUIDED)[0].rows[0]
    stopped = play(running, GUIDED, stop_id=True)[0].rows[0]
    assert stopped.ids == plain.ids
    assert sum(stopped.sampled_mask) == sum(plain.sampled_mask) + len(GUIDED)


def test_text_behind_the_cut_is_neither_shown_nor_trained(running):
    texts = ("<search>q1</search> junk", *GUIDED[1:])
    episode, _ = play(running, texts)
    assert "junk" not in running.decode(episode.rows[0].ids)
    assert episode.rows == play(running, GUIDED)[0].rows


def test_each_turn_has_the_seed_of_its_number(running):
    _, script = play(running, GUIDED)
    assert [r.seed64 for r in script.requests] == [seed64("a", 1, t) for t in range(3)]


def test_context_that_is_full_ends_the_conversation(running):
    episode, script = play(running, GUIDED, context=120)
    assert episode.finish == "length"
    assert len(episode.rows[0].ids) <= 120
    for request in script.requests:
        assert len(request.ids) + request.sampling.max_new_tokens < 120


def test_a_task_s_conversation_ends_where_a_whole_turn_no_longer_fits(running):
    """Spec 11.2: prompt and a whole turn's tokens must fit; 50 of them here."""
    whole, _ = play(running, GUIDED, kind="task")
    last = len(whole.rows[0].ids) - (len(GUIDED[2]) + CLOSING)  # its prompt
    options = {"kind": "task", "whole_turns": True}
    assert play(running, GUIDED, context=last + 50, **options)[0] == whole
    episode, script = play(running, GUIDED, context=last + 49, **options)
    assert episode.finish == "length"
    assert len(script.requests) == 2
    assert {r.sampling.max_new_tokens for r in script.requests} == {50}
    # in training the room that is left must do
    _, script = play(running, GUIDED, context=last + 49)
    assert script.requests[-1].sampling.max_new_tokens == 48


def test_what_lies_behind_the_limit_of_a_response_is_not_scored(running):
    whole, _ = play(running, GUIDED)
    assert whole.scored == whole.state.messages
    tokens = len(whole.rows[0].ids) - whole.prompt_tokens
    assert play(running, GUIDED, response=tokens)[0].scored == whole.scored
    cut = play(running, GUIDED, response=tokens - 1)[0]
    assert cut.state.messages == whole.state.messages
    assert cut.scored == whole.scored[:-1]
    first = len(GUIDED[0]) + CLOSING
    assert play(running, GUIDED, response=first)[0].scored == whole.scored[:2]
    assert play(running, GUIDED, response=first - 1)[0].scored == whole.scored[:1]


def test_the_limit_of_a_response_holds_where_every_turn_is_a_row(rerendering):
    """Rows are not cut (spec 12.4), but the reward reads no more than elsewhere."""
    whole, _ = play(rerendering, GUIDED)
    tokens = sum(len(turn.ids) for turn in whole.turns)
    cut = play(rerendering, GUIDED, response=tokens - 1)[0]
    assert cut.rows == whole.rows
    assert cut.scored == whole.scored[:-1]


@pytest.mark.quirk(48)
def test_a_full_context_slides_only_in_the_reference(running):
    """Spec Q48: goes on with the last tokens, one fewer than a response may have."""
    whole, _ = play(running, GUIDED)
    ids = whole.rows[0].ids
    last = len(ids) - (len(GUIDED[2]) + CLOSING)
    limits = {"context": last + 1, "response": 60}
    ended, _ = play(running, GUIDED, **limits)
    assert ended.finish == "length" and ended.state.turns == 2
    slid, script = play(running, GUIDED, **limits, compat=Compat(sliding_context=True))
    assert slid.finish == "done"
    assert script.requests[-1].ids == ids[last - 59 : last]
    [row] = slid.rows
    assert row.ids == ids[last - 59 :][:60]
    assert len(row.loss_mask) == len(row.logprobs) == 60


def test_response_is_cut_at_its_limit(running):
    whole, _ = play(running, GUIDED)
    cut, _ = play(running, GUIDED, response=30)
    end = whole.prompt_tokens + 30
    assert cut.rows[0].ids == whole.rows[0].ids[:end]
    assert cut.rows[0].loss_mask == whole.rows[0].loss_mask[:end]


def test_rows_of_a_template_that_strips_thinking_match_example_112(rerendering):
    """One row a turn; earlier thinking is gone from later prompts (spec 12.4)."""
    call = json.dumps({"name": "search", "arguments": {"query_list": ["q"]}})
    texts = (
        f"<think>\nA1\n</think>\n\n<tool_call>\n{call}\n</tool_call>",
        "<think>\nB\n</think>\n\n<task>T</task>",
    )
    episode, _ = play(rerendering, texts, tool_format="tool_call", n=1)
    first, second = episode.rows
    responses = [
        rerendering.decode(
            [i for i, m in zip(row.ids, row.loss_mask, strict=True) if m]
        )
        for row in (first, second)
    ]
    assert responses[0].startswith("<think>\nA1\n</think>\n\n<tool_call>\n")
    assert responses[0].endswith("\n</tool_call><|im_end|>\n")
    assert responses[1] == "<think>\nB\n</think>\n\n<task>T</task><|im_end|>\n"
    prompt = rerendering.decode(
        [i for i, m in zip(second.ids, second.loss_mask, strict=True) if not m]
    )
    assert "A1" not in prompt and "<tool_call>" in prompt
    # the last turn is as it was sampled; a rewritten call is trained, not sampled
    assert sum(second.sampled_mask) == len(texts[1])
    assert set(first.sampled_mask) <= {0, 1}


def test_an_engine_that_refuses_ends_in_error_and_trains_nothing(running):
    async def refuse(request):
        return Completion(ids=(), logprobs=(), text="", finish_reason="error")

    spec = ConversationSpec(
        kind="solver",
        tool_format="search_r1",
        prompts=prompts.load("default", "search_r1"),
    )
    episode = asyncio.run(
        converse(
            spec,
            [{"role": "user", "content": "prompt"}],
            complete=refuse,
            search=search,
            renderer=running,
            sampling=SamplingParams(),
            limits=Limits(context=1000, response=1000),
            uid="u",
            seed=(),
        )
    )
    assert episode.finish == "error"
    assert not any(episode.rows[0].loss_mask)
