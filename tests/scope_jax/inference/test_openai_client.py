"""OpenAI's own client against our server: what its API says is what it gets."""

import math

import numpy as np
import openai
import pytest

from scope_jax.inference.json_text import is_object

CHAT = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def client(server):
    url = f"{server.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def chat(client, **fields):
    fields = {"model": "judge", "messages": CHAT, "max_completion_tokens": 8} | fields
    return client.chat.completions.create(**fields)


def complete(client, **fields):
    fields = {"model": "judge", "prompt": "Once", "max_tokens": 8} | fields
    return client.completions.create(**fields)


def test_models_are_listed_and_retrieved(client):
    listed = {model.id: model for model in client.models.list()}
    assert client.models.retrieve("judge") == listed["judge"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_a_stream_says_what_the_whole_answer_says(client):
    more = {"seed": 4, "extra_body": {"ignore_eos": True}, "temperature": 1.3}
    for tokens in (1, 40):
        whole = complete(client, max_tokens=tokens, **more)
        pieces = list(complete(client, max_tokens=tokens, stream=True, **more))
        assert "".join(p.choices[0].text for p in pieces) == whole.choices[0].text
        ends = [p.choices[0].finish_reason for p in pieces]
        assert ends == [None] * (len(pieces) - 1) + [whole.choices[0].finish_reason]
        assert tokens == 1 or len(pieces) > 2
        assert {p.id for p in pieces} == {pieces[0].id}


def test_a_chat_stream_ends_with_its_usage(client):
    whole = chat(client, n=2, seed=1)
    options = {"include_usage": True}
    *pieces, last = chat(client, n=2, seed=1, stream=True, stream_options=options)
    text = {0: "", 1: ""}
    for piece in pieces:
        assert piece.object == "chat.completion.chunk" and piece.usage is None
        for choice in piece.choices:
            text[choice.index] += choice.delta.content or ""
    assert text == {c.index: c.message.content for c in whole.choices}
    assert pieces[0].choices[0].delta.role == "assistant"
    assert last.choices == [] and last.usage == whole.usage


def test_a_stop_string_never_shows_in_a_stream(client):
    more = {"seed": 9, "max_tokens": 60, "extra_body": {"ignore_eos": True}}
    text = complete(client, **more).choices[0].text
    for start in (3, 10, 20):
        stop = text[start : start + 4]
        whole = complete(client, stop=[stop, "never"], **more).choices[0].text
        pieces = complete(client, stop=[stop, "never"], stream=True, **more)
        assert "".join(p.choices[0].text for p in pieces) == whole
        assert stop not in whole


def test_prompts_and_choices_come_in_order(client):
    ids = [list(b"abc"), list(b"xyz")]
    answer = complete(client, prompt=ids, n=3, seed=7)
    assert [c.index for c in answer.choices] == list(range(6))
    assert len({c.text for c in answer.choices[:3]}) > 1
    alone = complete(client, prompt=ids[1], n=3, seed=7)
    assert [c.text for c in alone.choices] == [c.text for c in answer.choices[3:]]
    assert answer.usage.prompt_tokens == 6
    one = complete(client, prompt=["abc", "de"], max_tokens=1)
    assert len(one.choices) == 2
    first = complete(client, prompt=ids[0], seed=7).choices[0].text
    assert first == answer.choices[0].text


def test_the_best_of_several_is_the_likeliest(client):
    more = {"logprobs": 0, "seed": 3}
    all_of_them = complete(client, n=6, **more).choices
    means = [np.mean(c.logprobs.token_logprobs) for c in all_of_them]
    best = complete(client, best_of=6, **more).choices
    assert [c.text for c in best] == [all_of_them[int(np.argmax(means))].text]


def test_logprobs_name_the_likeliest_tokens(client):
    answer = chat(client, logprobs=True, top_logprobs=5, temperature=0)
    for token in answer.choices[0].logprobs.content:
        tops = [top.logprob for top in token.top_logprobs]
        assert len(tops) == 5 and tops == sorted(tops, reverse=True)
        # Greedy: the token is the first of them, up to rounding.
        assert math.isclose(token.logprob, tops[0], abs_tol=1e-3)
    own = complete(client, logprobs=4, seed=2).choices[0].logprobs
    assert len(own.tokens) == len(own.token_logprobs) == len(own.top_logprobs)
    for token, logprob, top in zip(
        own.tokens, own.token_logprobs, own.top_logprobs, strict=True
    ):
        assert top[token] == logprob and 1 <= len(top) <= 5
    alone = complete(client, logprobs=0, seed=2).choices[0].logprobs
    assert alone.top_logprobs is None and alone.token_logprobs == own.token_logprobs


def test_echo_scores_the_prompt_as_sampling_would(client):
    ids = list(b"A prompt of some length, longer than one chunk of 64 tokens is.") + [
        97
    ]
    answer = complete(client, prompt=ids, echo=True, max_tokens=3, logprobs=1, seed=1)
    choice = answer.choices[0]
    assert choice.text.startswith("") and len(choice.logprobs.tokens) == len(ids) + 3
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.top_logprobs[0] is None
    # The sampled tokens' log-probs, computed by decoding, are those of scoring.
    whole = [*ids, *_token_ids(client, ids)]
    scored = complete(client, prompt=whole, echo=True, max_tokens=0, logprobs=0)
    found = scored.choices[0].logprobs.token_logprobs
    np.testing.assert_allclose(
        found[1:], choice.logprobs.token_logprobs[1:], rtol=0, atol=1e-3
    )
    assert scored.usage.completion_tokens == 0
    text = complete(client, prompt="Once ", echo=True, stream=True)
    assert "".join(p.choices[0].text for p in text).startswith("Once ")


def _token_ids(client, ids):
    more = {"return_token_ids": True}
    answer = complete(client, prompt=ids, max_tokens=3, seed=1, extra_body=more)
    return answer.choices[0].model_extra["token_ids"]


def test_messages_of_all_kinds(client):
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "something."}]
    in_parts = [{"role": "user", "content": parts}]
    same = chat(client, messages=in_parts, seed=1).choices[0].message.content
    assert same == chat(client, seed=1).choices[0].message.content
    system = {"role": "system", "content": "Be brief."}
    developer = system | {"role": "developer"}
    found = [
        chat(client, messages=[first, *CHAT], seed=1) for first in (system, developer)
    ]
    assert found[0].choices[0].message == found[1].choices[0].message
    assert found[0].usage == found[1].usage
    call = {"name": "f", "arguments": '{"x": 1}'}
    called = [
        *CHAT,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    assert chat(client, messages=called, max_completion_tokens=2).choices
    image = {"type": "image_url", "image_url": {"url": "http://x"}}
    with pytest.raises(openai.BadRequestError, match="text"):
        chat(client, messages=[{"role": "user", "content": [image]}])


def test_fields_that_change_nothing_are_ignored(client):
    ignored = {
        "store": True,
        "parallel_tool_calls": False,
        "metadata": {"a": "b"},
        "user": "me",
        "service_tier": "auto",
        "reasoning_effort": "low",
        "response_format": {"type": "text"},
        "frequency_penalty": 0,
        "logit_bias": {},
    }
    assert chat(client, seed=1, **ignored).choices == chat(client, seed=1).choices


@pytest.mark.parametrize(
    "field",
    [
        {"frequency_penalty": 0.5},
        {"logit_bias": {"1": 2}},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"n": 0},
        {"top_logprobs": 3},
        {"extra_body": {"tmperature": 1}},
    ],
)
def test_what_cannot_be_done_is_a_400_with_the_fields_name(client, field):
    name = next(iter(field.get("extra_body", field)))
    with pytest.raises(openai.BadRequestError, match=name):
        chat(client, **field)


def test_errors_before_a_stream_have_their_status(client):
    with pytest.raises(openai.NotFoundError, match="judge"):
        chat(client, model="nobody", stream=True)
    with pytest.raises(openai.BadRequestError, match="max_length"):
        complete(client, prompt=[1] * 200, stream=True)


def test_a_json_object_is_one_or_the_beginning_of_one(client):
    ask = [{"role": "user", "content": "Some JSON, please."}]
    kind = {"type": "json_object"}
    more = {"messages": ask, "response_format": kind, "max_completion_tokens": 24}
    for seed in range(3):
        answer = chat(client, seed=seed, temperature=2, **more)
        [choice] = answer.choices
        whole = choice.finish_reason == "stop"
        assert is_object(choice.message.content) is whole
        # Of 260 tokens about five may begin one: 300 draws find them.
        assert choice.message.content.lstrip().startswith("{") or not whole
        assert answer.usage.completion_tokens > 0
        pieces = chat(client, seed=seed, temperature=2, stream=True, **more)
        text = "".join(p.choices[0].delta.content or "" for p in pieces)
        assert text == choice.message.content
