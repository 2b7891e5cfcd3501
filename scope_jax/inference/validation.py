"""Checked calls, made of what a client sent; what is wrong is named in a 400."""

from dataclasses import dataclass
from typing import Any

from rl.records import SamplingParams
from scope_jax.inference.errors import bad_field
from scope_jax.inference.schemas import ChatBody, CompletionBody, SearchBody, either

# OpenAI's code for a prompt that leaves no room; the client looks for it.
TOO_LONG = "context_length_exceeded"
# Ours, for a model whose logits are not finite; the client looks for it.
NON_FINITE = "non_finite_logits"
# Ours, for an answer that was computed with other weights than were agreed upon.
WRONG_WEIGHTS = "wrong_weights"
# Passages of one answer: about 10 MB.
MOST_PASSAGES = 10_000
# Characters of all queries of a request: about a second's work.
MOST_QUERY_TEXT = 2**19


@dataclass(frozen=True, kw_only=True)
class Call:
    """A checked body of /v1/completions or /v1/chat/completions.

    Attributes:
      prompts: each text, or a tuple of token ids; for chat, one list of messages.
      max_tokens: None stands for "up to the model's length".
      stop_ids: as sent; ``ignore_eos`` says whether the model's own are added.
      logprobs: how many alternatives to each token; None: no log-probs at all.
      json_object: whether the text has to be a JSON object.
      n: choices per prompt, the best of ``best_of``.
    """

    model: str
    chat: bool
    prompts: tuple[Any, ...]
    sampling: SamplingParams
    max_tokens: int | None
    stop: tuple[str, ...]
    stop_ids: tuple[int, ...]
    ignore_eos: bool
    seed: int
    include_stop: bool
    return_ids: bool
    n: int
    best_of: int
    stream: bool
    include_usage: bool
    logprobs: int | None
    echo: bool = False
    tools: list[dict[str, Any]] | None = None
    json_object: bool = False


def parse_completion(body: Any) -> Call:
    """Checks a body of ``POST /v1/completions``.

    Raises:
      ApiError: 400 with the first field that is missing, unknown or wrong.
    """
    asked = CompletionBody.checked(body)
    common, logprobs = asked.common(), asked.logprobs
    if isinstance(logprobs, bool):
        logprobs = 1 if logprobs else None
    best_of = either(asked.best_of, common["n"])
    if best_of < common["n"]:
        raise bad_field("best_of", best_of, f"fewer than n={common['n']}")
    if best_of > common["n"] and common["stream"]:
        raise bad_field("best_of", best_of, "no stream can tell which is best")
    return Call(
        **common,
        chat=False,
        prompts=tuple(p if isinstance(p, str) else tuple(p) for p in asked.prompt),
        max_tokens=either(asked.max_tokens, 16),
        best_of=best_of,
        logprobs=logprobs,
        echo=bool(asked.echo),
    )


def parse_chat(body: Any) -> Call:
    """Checks a body of ``POST /v1/chat/completions``; see `parse_completion`."""
    asked = ChatBody.checked(body)
    common = asked.common()
    if asked.top_logprobs and not asked.logprobs:
        raise bad_field("top_logprobs", asked.top_logprobs, "only with logprobs: true")
    json_object = (
        asked.response_format is not None
        and asked.response_format.type == "json_object"
    )
    messages = [message.plain() for message in asked.messages]
    if json_object and not any("json" in m["content"].lower() for m in messages):
        # OpenAI's rule: a model that is not asked for it writes spaces for ever.
        why = "the messages have to ask for JSON in words"
        raise bad_field("response_format", "json_object", why)
    limit = either(asked.max_completion_tokens, asked.max_tokens)
    if limit == 0:
        raise bad_field("max_tokens", 0, "must be 1 or more")
    return Call(
        **common,
        chat=True,
        prompts=(messages,),
        max_tokens=limit,
        best_of=common["n"],
        logprobs=either(asked.top_logprobs, 0) if asked.logprobs else None,
        json_object=json_object,
        tools=None if asked.tool_choice == "none" else asked.tools or None,
    )


def parse_search(body: Any, default_topk: int) -> tuple[list[str], int, bool]:
    """Checks a body of ``POST /retrieve``: queries, passages per query, with scores.

    Raises:
      ApiError: 400 with the first field that is missing, unknown or wrong.
    """
    asked = SearchBody.checked(body)
    topk = asked.topk or default_topk
    if (text := sum(map(len, asked.queries))) > MOST_QUERY_TEXT:
        why = f"characters are more than {MOST_QUERY_TEXT}: ask for fewer at once"
        raise bad_field("queries", text, why)
    if len(asked.queries) * topk > MOST_PASSAGES:
        why = f"times topk={topk} are more than {MOST_PASSAGES} passages: ask for fewer"
        raise bad_field("queries", len(asked.queries), why)
    return asked.queries, topk, bool(asked.return_scores)
