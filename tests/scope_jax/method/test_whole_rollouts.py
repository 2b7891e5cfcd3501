"""Whole rollouts, their format scores and rows, against plain oracles."""

import asyncio
import json
import random
from types import SimpleNamespace

import pytest

from models.chat import ChatRenderer
from rl.records import Completion, SamplingParams
from scope_jax.method import challenger, prompts, solver
from scope_jax.method import conversation as c
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.formats import message_text
from scope_jax.method.solver import SolverConfig
from scope_jax.method.transcript import writes_thinking
from scope_jax.method.types import TOOL_FORMATS
from scope_jax.selfplay.rollouts import Limits, converse
from tests.scope_jax.inference.inference_world import byte_tokenizer
from tests.scope_jax.method import oracles, rollout_oracle, score_oracle

KINDS = ("challenger", "solver", "solver_eval", "difficulty", "task")
SEEDS = range(300)
PROMPT = {"role": "user", "content": "prompt"}
LISTS = (["a"], ["b", "none"], ["none", "c"], [1], [{"query": "d"}], ["e", 1], "f", [])
SHARED = (
    *(
        "hm ",
        "\n",
        "<think>why</think>",
        "<think>",
        "</think>",
        "<think>a ",
        "so </think>",
    ),
    *("<task>T</task>", "<task>", "</task>", "<task> </task>"),
    *("<answer>A</answer>", "<answer>", "</answer>", "<answer>half"),
    *("<think><task>T</task></think>", "<think><answer>A</answer></think>"),
)


def json_call(queries, name="search"):
    value = {"name": name, "arguments": {"query_list": queries}}
    return f"<tool_call>\n{json.dumps(value)}\n</tool_call>"


OWN = {
    "search_r1": (
        *("<search>a</search>", "<search>none</search>", "<search> b </search>"),
        *("<search> </search>", "<search>", "</search>", "<search>a</search>" * 2),
    ),
    "tool_call": (
        *map(json_call, LISTS),
        *(json_call(["a"]), json_call(["b"]), json_call(["a"], "find")),
        *("<tool_call>{</tool_call>", json_call(["a"])[:-12], "<tool_call>"),
        "<tool_call>search(query_list=['a', 'b'])</tool_call>",
    ),
    "function_calls_xml": (
        *(f'<function_calls>search(query="{q}")</function_calls>' for q in "abc"),
        *('<function_calls>search(query="none")', "<function_calls>search("),
        *("</function_calls>", "<function_calls>find()</function_calls>"),
        '<function_calls>answer(answer="x")</function_calls>',
    ),
}


def script(tool_format, seed):
    """Turns of up to six pieces, more of them short, and how each ended."""
    rng = random.Random(f"{tool_format} {seed}")
    pieces = (*SHARED, *OWN[tool_format] * 2)
    return [
        (
            "".join(rng.choices(pieces, k=rng.choice((1, 1, 2, 2, 3, 4, 6)))),
            rng.choice(("stop", "stop", "length")),
        )
        for _ in range(14)
    ], rng.randint(1, 5)


def spec_of(kind, tool_format, n, compat):
    return c.ConversationSpec(
        kind=kind,
        tool_format=tool_format,
        prompts=prompts.load("default", tool_format),
        num_searches=n,
        max_turns=10 if kind == "task" else 5,
        style="chain2_xml" if tool_format == "function_calls_xml" else "chain2",
        compat=compat,
    )


def expected(kind, tool_format, n, turns, compat, without=()):
    """What the oracle says."""
    spec = spec_of(kind, tool_format, n, compat)
    words = {
        "style": spec.style,
        "invalid": spec.prompts.invalid_action(),
        "forced": spec.prompts.forced_answer(),
        "guide": lambda name, left: spec.prompts.guidance(
            name, remaining=left, target=n
        ),
    }
    return rollout_oracle.play(
        kind, tool_format, n, turns, words, released=compat != OFF, without=without
    )


def played(kind, tool_format, n, turns, compat):
    """The last state, what was searched for, and whether the conversation ended."""
    state, action = c.start(spec_of(kind, tool_format, n, compat), [PROMPT])
    turns, ran = list(turns), []
    while not isinstance(action, c.Finish):
        if isinstance(action, c.Search):
            ran += action.queries
            results = [rollout_oracle.result_of(q) for q in action.queries]
            state, action = c.observe(state, results, rollout_oracle.cut)
        elif turns:
            state, action = c.step(state, *turns.pop(0))
        else:
            break
    return state, ran, isinstance(action, c.Finish)


def cases(kind, tool_format):
    for seed in SEEDS:
        turns, n = script(tool_format, seed)
        yield turns, n if kind in ("challenger", "task") else None


@pytest.mark.parametrize("compat", [OFF, Compat.released()], ids=["ours", "released"])
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_and_their_format_scores_are_those_of_the_specification(
    kind, tool_format, compat
):
    longest, writes = 0, tool_format == "tool_call"
    for turns, n in cases(kind, tool_format):
        oracle = expected(kind, tool_format, n, turns, compat)
        state, ran, ended = played(kind, tool_format, n, turns, compat)
        assert list(state.messages[1:]) == oracle.messages, turns
        assert (ran, ended) == (oracle.ran, oracle.ended), turns
        assert list(state.passages) == oracle.passages, turns
        longest = max(longest, state.turns)
        messages = [PROMPT, *oracle.messages]
        if n is not None:
            score = challenger.assess(
                state.played, n, tool_format, compat=compat
            ).format
            found = (score.think, score.tool, score.structure)
            assert found == pytest.approx(
                score_oracle.challenger(messages, n, tool_format, compat != OFF)
            ), turns
        else:
            scored = solver.assess(
                SolverConfig(),
                state.played,
                tool_format,
                encode=str.split,
                cut=lambda text, n: " ".join(text.split()[:n]),
                writes_thinking=writes,
            )
            form = scored.format
            found = (form.think, form.tool, form.structure, scored.calls)
            assert found == pytest.approx(
                score_oracle.solver(messages, tool_format, writes)
            ), turns
    assert longest >= 5


@pytest.mark.parametrize(
    ("rule", "kind", "tool_format", "compat"),
    [
        *(
            ("3.9.1", kind, name, Compat.released())
            for kind in ("challenger", "solver", "solver_eval")
            for name in TOOL_FORMATS
        ),
        *(
            ("3.9.2", kind, "tool_call", Compat.released())
            for kind in ("challenger", "solver", "solver_eval")
        ),
        *(("3.9.3", "difficulty", name, OFF) for name in TOOL_FORMATS),
        *(
            ("3.9.4", kind, "tool_call", OFF)
            for kind in ("challenger", "solver", "solver_eval", "task")
        ),
        *(
            ("3.9.5", kind, "function_calls_xml", OFF)
            for kind in ("challenger", "solver", "solver_eval")
        ),
        ("3.9.6", "solver_eval", "function_calls_xml", OFF),
        ("3.9.7", "difficulty", "search_r1", OFF),
    ],
)
def test_the_cases_would_notice_a_broken_rule(rule, kind, tool_format, compat):
    """Without the rule some rollout is another one."""
    changed = sum(
        expected(kind, tool_format, n, turns, compat).messages
        != expected(kind, tool_format, n, turns, compat, (rule,)).messages
        for turns, n in cases(kind, tool_format)
    )
    assert changed > 0


def leaves_out(message, compat):
    """Spec Q53: a turn whose thinking is open; no template here writes it as it is."""
    open_thinking = oracles.verdict(message_text(message)) is None
    return open_thinking and not compat.cut_thinking_trained


@pytest.mark.parametrize(
    "compat", [OFF, Compat(close_opened_tags=True, cut_thinking_trained=True)]
)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("kind", ["challenger", "solver"])
def test_rows_hold_every_turn_as_it_was_kept(kind, tool_format, compat):
    """Spec 3.7, 12.4: on 40 rollouts, a byte a token; Q53 leaves out cut thinking."""
    rewrites = tool_format == "tool_call"
    renderer = ChatRenderer.from_tokenizer(
        byte_tokenizer(), template="qwen3_strip_thinking" if rewrites else None
    )
    assert writes_thinking(renderer) == rewrites
    sampling = SamplingParams(max_new_tokens=500)
    limits = Limits(context=100_000, response=100_000)

    async def search(queries):
        return [rollout_oracle.result_of(query) for query in queries]

    for turns, n in list(cases(kind, tool_format))[:40]:
        said = iter(turns)

        async def complete(request, said=said):
            text, reason = next(said)
            ids = tuple(renderer.encode_text(text))
            return Completion(
                ids=ids, logprobs=(-1.0,) * len(ids), text=text, finish_reason=reason
            )

        rollout = asyncio.run(
            converse(
                SimpleNamespace(search=search, renderer=renderer),
                spec_of(kind, tool_format, n, compat),
                [PROMPT],
                complete=complete,
                sampling=sampling,
                limits=limits,
                seed=("rows",),
            )
        )
        trained = [
            renderer.decode(
                [i for i, loss in zip(row.ids, row.loss_mask, strict=True) if loss]
            )
            for row in rollout.datums
        ]
        kept = [
            score_oracle.written(message, rewrites)
            for message in rollout.messages
            if message["role"] == "assistant"
            and not (rewrites and leaves_out(message, compat))
        ]
        assert trained == (kept if rewrites else ["".join(kept)]), turns
        if not rewrites:
            [row] = rollout.datums
            whole = renderer.render(rollout.messages)
            if rollout.messages[-1]["role"] == "assistant":  # else: behind the last
                assert renderer.decode(row.ids) == whole
            assert whole.startswith(renderer.decode(row.ids))
