"""Conversations driven to their end: what is trained on is exactly what was sampled."""

import asyncio
import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

import configs
from models.chat import ChatRenderer
from models.errors import UserError
from rl.engine.sampling import seed64
from rl.records import Completion, SamplingParams
from scope_jax.config import ModelConfig
from scope_jax.method import prompts, solver_output
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.conversation import ConversationSpec
from scope_jax.method.transcript import check_calls
from scope_jax.selfplay.metering import step_metrics
from scope_jax.selfplay.parts import open_parts
from scope_jax.selfplay.rollouts import Limits, converse
from tests.models.test_chat_families import tokenizer_of
from tests.models.test_thinking_endings import DEEPSEEK, TEMPLATES
from tests.scope_jax.inference.inference_world import byte_tokenizer

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

    def __init__(self, renderer, texts, *, stop_id=False, ends=()):
        self.renderer, self.texts, self.requests = renderer, list(texts), []
        self.stop_id, self.ends = stop_id, list(ends)

    async def __call__(self, request):
        self.requests.append(request)
        text = self.texts.pop(0)
        ids = list(self.renderer.encode_text(text))
        if self.stop_id:
            ids.append(self.renderer.stop_ids[0])
        logprobs = tuple(-float(i + 1) for i in range(len(ids)))
        ended = self.ends.pop(0) if self.ends else "stop"
        return Completion(
            ids=tuple(ids), logprobs=logprobs, text=text, finish_reason=ended
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
    ends=(),
):
    script = Script(renderer, texts, stop_id=stop_id, ends=ends)
    spec = ConversationSpec(
        kind=kind,
        tool_format=tool_format,
        prompts=prompts.load("default", tool_format),
        num_searches=n,
        compat=compat,
    )
    work = converse(
        SimpleNamespace(search=search, renderer=renderer),
        spec,
        [{"role": "user", "content": "prompt"}],
        complete=script,
        sampling=SamplingParams(max_new_tokens=50),
        limits=Limits(context=context, response=response, whole_turns=whole_turns),
        seed=("a", 1),
    )
    return asyncio.run(work), script


GUIDED = ("<search>q1</search>", "<search>q2</search>", "<task>T</task>")
CLOSING = 2  # tokens that close a turn


def response_tokens(renderer, rollout):
    """Tokens after the opening prompt: the turns, and what the world says."""
    said = [[m] for m in rollout.messages[1:] if m["role"] != "assistant"]
    turns = sum(sum(datum.loss_mask) for datum in rollout.datums)
    return turns + sum(len(renderer.environment_ids(message)) for message in said)


def test_loss_segments_of_example_77(running):
    """Assistant content and its closing count; user turns and role lines do not."""
    rollout, _ = play(running, GUIDED)
    assert rollout.finish_reason == "done"
    [datum] = rollout.datums
    segments, current = [], None
    for token, loss in zip(datum.ids, datum.loss_mask, strict=True):
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
    rollout, script = play(running, GUIDED)
    [datum] = rollout.datums
    assert running.decode(datum.ids) == running.render(rollout.messages)
    # every prompt continues the ids before it: nothing is encoded twice
    prompts_sent = [request.ids for request in script.requests]
    for earlier, later in itertools.pairwise(prompts_sent):
        assert later[: len(earlier)] == earlier
    assert datum.ids[: len(prompts_sent[-1])] == prompts_sent[-1]


def test_sampled_tokens_keep_their_logprobs_and_no_other_token_has_one(running):
    [datum] = play(running, GUIDED)[0].datums
    for loss, sampled, logprob in zip(
        datum.loss_mask, datum.sampled_mask, datum.logprobs, strict=True
    ):
        assert sampled <= loss
        assert math.isnan(logprob) != bool(sampled)
    assert sum(datum.sampled_mask) == sum(map(len, GUIDED))  # a byte a token


def test_a_sampled_stop_id_is_trained_as_sampled_and_not_doubled(running):
    plain = play(running, GUIDED)[0].datums[0]
    stopped = play(running, GUIDED, stop_id=True)[0].datums[0]
    assert stopped.ids == plain.ids
    assert sum(stopped.sampled_mask) == sum(plain.sampled_mask) + len(GUIDED)


def test_text_behind_the_cut_is_neither_shown_nor_trained(running):
    texts = ("<search>q1</search> junk", *GUIDED[1:])
    rollout, _ = play(running, texts)
    assert "junk" not in running.decode(rollout.datums[0].ids)
    assert rollout.datums == play(running, GUIDED)[0].datums


def test_each_turn_has_the_seed_of_its_number(running):
    _, script = play(running, GUIDED)
    assert [r.seed64 for r in script.requests] == [seed64("a", 1, t) for t in range(3)]


def test_context_that_is_full_ends_the_conversation(running):
    rollout, script = play(running, GUIDED, context=120)
    assert rollout.finish_reason == "length"
    assert len(rollout.datums[0].ids) <= 120
    for request in script.requests:
        assert len(request.ids) + request.sampling.max_new_tokens < 120


def test_a_task_s_conversation_ends_where_a_whole_turn_no_longer_fits(running):
    """Spec 11.2: prompt and a whole turn's tokens must fit; 50 of them here."""
    whole, _ = play(running, GUIDED, kind="task")
    last = len(whole.datums[0].ids) - (len(GUIDED[2]) + CLOSING)  # its prompt
    options = {"kind": "task", "whole_turns": True}
    assert play(running, GUIDED, context=last + 50, **options)[0] == whole
    rollout, script = play(running, GUIDED, context=last + 49, **options)
    assert rollout.finish_reason == "length"
    assert len(script.requests) == 2
    assert {r.sampling.max_new_tokens for r in script.requests} == {50}
    # in training the room that is left must do
    _, script = play(running, GUIDED, context=last + 49)
    assert script.requests[-1].sampling.max_new_tokens == 48


def test_what_lies_behind_the_limit_of_a_response_is_not_scored(running):
    whole, _ = play(running, GUIDED)
    assert whole.scored == whole.messages
    tokens = response_tokens(running, whole)
    assert play(running, GUIDED, response=tokens)[0].scored == whole.scored
    cut = play(running, GUIDED, response=tokens - 1)[0]
    assert cut.messages == whole.messages
    assert cut.scored == whole.scored[:-1]
    first = len(GUIDED[0]) + CLOSING
    assert play(running, GUIDED, response=first)[0].scored == whole.scored[:2]
    assert play(running, GUIDED, response=first - 1)[0].scored == whole.scored[:1]


def test_the_limit_of_a_response_holds_where_every_turn_is_a_row(rerendering):
    """Rows are not cut (spec 12.4), but the reward reads no more than elsewhere."""
    whole, _ = play(rerendering, GUIDED)
    tokens = response_tokens(rerendering, whole)
    cut = play(rerendering, GUIDED, response=tokens - 1)[0]
    assert cut.datums == whole.datums
    assert cut.scored == whole.scored[:-1]


def test_a_rollout_says_whether_a_limit_has_cut_it_off(running, rerendering):
    for renderer in (running, rerendering):
        whole, script = play(renderer, GUIDED, ends=["length"])
        assert not whole.cut_off  # it has gone on behind that turn
        assert play(renderer, GUIDED, ends=["stop", "stop", "length"])[0].cut_off
        tokens = response_tokens(renderer, whole)
        assert not play(renderer, GUIDED, response=tokens)[0].cut_off
        assert play(renderer, GUIDED, response=tokens - 1)[0].cut_off
        room = len(script.requests[-1].ids) + 1
        assert play(renderer, GUIDED, context=room)[0].finish_reason == "length"
        assert play(renderer, GUIDED, context=room)[0].cut_off


@pytest.mark.quirk(48)
def test_a_full_context_slides_only_in_the_reference(running):
    """Spec Q48: goes on with the last tokens, one fewer than a response may have."""
    whole, _ = play(running, GUIDED)
    ids = whole.datums[0].ids
    last = len(ids) - (len(GUIDED[2]) + CLOSING)
    limits = {"context": last + 1, "response": 60}
    ended, _ = play(running, GUIDED, **limits)
    assert ended.finish_reason == "length" and ended.turns == 2
    slid, script = play(running, GUIDED, **limits, compat=Compat(sliding_context=True))
    assert slid.finish_reason == "done"
    assert script.requests[-1].ids == ids[last - 59 : last]
    [datum] = slid.datums
    assert datum.ids == ids[last - 59 :][:60]
    assert len(datum.loss_mask) == len(datum.logprobs) == 60


def test_response_is_cut_at_its_limit(running):
    whole, script = play(running, GUIDED)
    cut, _ = play(running, GUIDED, response=30)
    end = len(script.requests[0].ids) + 30
    assert cut.datums[0].ids == whole.datums[0].ids[:end]
    assert cut.datums[0].loss_mask == whole.datums[0].loss_mask[:end]


def test_rows_of_a_template_that_strips_thinking_match_example_112(rerendering):
    """One row a turn; earlier thinking is gone from later prompts (spec 12.4)."""
    call = json.dumps({"name": "search", "arguments": {"query_list": ["q"]}})
    texts = (
        f"<think>\nA1\n</think>\n\n<tool_call>\n{call}\n</tool_call>",
        "<think>\nB\n</think>\n\n<task>T</task>",
    )
    rollout, _ = play(rerendering, texts, tool_format="tool_call", n=1)
    first, second = rollout.datums
    responses = [
        rerendering.decode(
            [i for i, m in zip(datum.ids, datum.loss_mask, strict=True) if m]
        )
        for datum in (first, second)
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
    rollout = asyncio.run(
        converse(
            SimpleNamespace(search=search, renderer=running),
            spec,
            [{"role": "user", "content": "prompt"}],
            complete=refuse,
            sampling=SamplingParams(),
            limits=Limits(context=1000, response=1000),
            seed=(),
        )
    )
    assert rollout.finish_reason == "error"
    assert not any(rollout.datums[0].loss_mask)


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% endif %}"
)
CALL = '<tool_call>{"name": "search", "arguments": {"query_list": ["q"]}}</tool_call>'


def test_thinking_that_the_template_opens_is_thinking_to_every_rule():
    """A call in it is none, and the turn scores as one that thinks."""
    renderer = ChatRenderer.from_tokenizer(byte_tokenizer(), template=THINKING)
    assert renderer.append_only
    texts = (
        f"maybe {CALL}</think>\n\n{CALL}",
        "so</think><answer>k</answer>",
    )
    rollout, _ = play(renderer, texts, kind="solver", tool_format="tool_call", n=None)
    assert rollout.finish_reason == "done" and rollout.searches == 1
    assert [m["role"] for m in rollout.messages[1:]] == [
        "assistant",
        "tool",
        "assistant",
    ]
    assert rollout.messages[-1]["content"] == f"<think>\n{texts[1]}"
    parsed = solver_output.parse_answer(rollout.messages)
    assert parsed.answer == "k"
    score = solver_output.format_score(rollout.messages, "tool_call")
    assert (score.think, score.structure) == (1, 1)
    [datum] = rollout.datums
    sampled = [i for i, s in zip(datum.ids, datum.sampled_mask, strict=True) if s]
    assert renderer.decode(sampled) == "".join(texts)
    assert renderer.decode(datum.ids).count("<think>") == 2


def test_a_template_that_never_shows_thinking_trains_turns_as_they_were_sampled():
    """R1's: what a prompt shows is the template's, what is trained on the sample."""
    tokenizer = tokenizer_of(DEEPSEEK)
    template = (TEMPLATES / "r1_distill.jinja").read_text(encoding="utf-8")
    renderer = ChatRenderer.from_tokenizer(tokenizer, template=template)
    texts = (
        "First.\n</think>\n\n<search>q1</search>",
        "I was cut <search>q2</search>",
        "So.\n</think>\n\n<task>T</task>",
    )
    rollout, script = play(renderer, texts)
    assert rollout.finish_reason == "done" and rollout.left_out == 0
    for turn, (datum, request) in enumerate(
        zip(rollout.datums, script.requests, strict=True)
    ):
        shown = rollout.messages[: 2 * turn + 1]
        assert list(request.ids) == tokenizer.apply_chat_template(
            shown, chat_template=template, add_generation_prompt=True, return_dict=False
        )
        assert datum.ids[: len(request.ids)] == request.ids
        said = rollout.messages[2 * turn + 1]["content"].removeprefix("<think>\n")
        response = datum.ids[len(request.ids) :]
        assert renderer.decode(response) == f"{said}<｜end▁of▁sentence｜>"
        kept = [i for i, s in zip(datum.ids, datum.sampled_mask, strict=True) if s]
        assert renderer.decode(kept) == said
    assert "First" not in renderer.decode(script.requests[-1].ids)


@pytest.fixture
def bytes_model(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    return ModelConfig(path=str(tmp_path))


def opened(model, tool_format="tool_call"):
    """What the parts of a run say that can't be made."""
    config = replace(configs.load("tiny"), tool_format=tool_format, model=model)
    folder = SimpleNamespace(date="2025-01-31")
    with pytest.raises(UserError) as caught, open_parts(config, folder, None, None):
        pass
    return str(caught.value)


def test_a_template_that_shows_no_calls_is_refused_where_calls_are_no_text(bytes_model):
    """SmolLM2's and R1's templates drop them without a word."""
    said = opened(replace(bytes_model, template=THINKING))
    assert said.startswith("model.template: ") and "no tool calls" in said
    assert "search_r1" in said and "\n" not in said
    for name in ("chatml", "llama3", "olmo3_consistent_eos", "qwen3_strip_thinking"):
        check_calls(ChatRenderer.from_tokenizer(byte_tokenizer(), template=name))


def test_a_run_s_templates_are_told_the_day_of_its_folder(bytes_model):
    template = "{{ raise_exception(strftime_now('%d %b %Y') ~ '!') }}"
    assert "(31 Jan 2025!)" in opened(replace(bytes_model, template=template))


@pytest.mark.quirk(53)
@pytest.mark.parametrize("trained", [False, True])
def test_a_turn_cut_inside_thinking_is_left_out_of_the_loss(rerendering, trained):
    """The template puts an empty block before it, which nobody sampled."""
    texts = (
        "<think>t</think><search>q1</search>",
        "<think>I was cut",
        "<task>T</task>",
    )
    compat = Compat(cut_thinking_trained=trained)
    rollout, _ = play(rerendering, texts, compat=compat)
    assert rollout.left_out == (not trained)
    assert [datum.turn for datum in rollout.datums] == [0, 1, 2] if trained else [0, 2]
    shown = [rerendering.decode(datum.ids) for datum in rollout.datums]
    before = "<think>\n\n</think>\n\n<think>I was cut<|im_end|>\n"
    assert any(text.endswith(before) for text in shown) == trained
    assert step_metrics([replace(rollout, reward=0.0)])["rollout/left_out"] == (
        not trained
    )


@pytest.mark.parametrize("depth", [25, 500, 900])
def test_a_call_that_is_nested_deep_ends_no_run(rerendering, depth):
    deep = CALL.replace("}}", ', "x": ' + "[" * depth + "]" * depth + "}}")
    rollout, _ = play(
        rerendering,
        [deep, "<answer>a</answer>"],
        kind="solver",
        tool_format="tool_call",
        n=None,
    )
    assert rollout.finish_reason == "done"
    assert ("tool_calls" in rollout.messages[1]) == (depth == 25)
