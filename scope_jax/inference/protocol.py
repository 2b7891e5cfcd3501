"""What goes over the wire: OpenAI's and Search-R1's JSON, made from records.

By the server and by the client; ``answers`` is the client's side of what comes back.
"""

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.passages import Passage
from rl.engine.scoring import Scores
from rl.records import Completion, Request
from scope_jax.inference.validation import Call


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer to one prompt.

    Attributes:
      index: in the answer, over all prompts.
      prompt_ids: that it answers.
      prompt: that as text, where it is repeated.
      completion: what was sampled.
      text: of the completion as the client wants it.
      fingerprint: content hash of the weights.
      scores: of prompt and completion together, where they were asked for.
    """

    index: int
    prompt_ids: Sequence[int]
    prompt: str = ""
    completion: Completion
    text: str
    fingerprint: str
    scores: Scores | None = None


def cut_stop(call: Call, completion: Completion) -> str:
    """The completion's text, without its stop string unless the client wants it."""
    if completion.stop_string and not call.include_stop:
        return completion.text.removesuffix(completion.stop_string)
    return completion.text


def completion_json(
    call: Call, choices: Sequence[Choice], decode: Callable[[Sequence[int]], str]
) -> dict[str, Any]:
    """The answer to a completion or chat completion, in OpenAI's format."""
    shown = [_choice_json(call, choice, decode) for choice in choices]
    kind = "chat.completion" if call.chat else "text_completion"
    answer = answer_head(call, kind, choices[0].fingerprint)
    return answer | {"choices": shown, "usage": usage_json(choices)}


def answer_head(call: Call, kind: str, fingerprint: str) -> dict[str, Any]:
    """What all answers and all pieces of a stream begin with."""
    return {
        "id": ("chatcmpl-" if call.chat else "cmpl-") + secrets.token_hex(8),
        "object": kind,
        "created": int(time.time()),
        "model": call.model,
        "system_fingerprint": fingerprint,
    }


def usage_json(choices: Sequence[Choice]) -> dict[str, Any]:
    """Tokens of a whole answer; a prompt counts once, however many choices it has."""
    prompts = {id(choice.prompt_ids): choice for choice in choices}.values()
    prompt = sum(len(choice.prompt_ids) for choice in prompts)
    sampled = sum(len(choice.completion.ids) for choice in choices)
    cached = sum(choice.completion.cached_tokens for choice in prompts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _choice_json(
    call: Call, choice: Choice, decode: Callable[[Sequence[int]], str]
) -> dict[str, Any]:
    completion = choice.completion
    shown: dict[str, Any] = {
        "index": choice.index,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_string,
        "logprobs": None,
    }
    if call.chat:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        shown["message"] = message
    else:
        shown["text"] = choice.prompt + choice.text
    if call.logprobs is not None:
        shown["logprobs"] = logprobs_json(call, choice, decode)
    if call.return_ids:
        shown["token_ids"] = list(completion.ids)
        shown["prompt_token_ids"] = list(choice.prompt_ids)
    return shown


def logprobs_json(
    call: Call, choice: Choice, decode: Callable[[Sequence[int]], str]
) -> dict[str, Any]:
    """Log-probs of the tokens of a choice, and of those most likely in their places."""
    ids = list(choice.completion.ids)
    own: list[float | None] = [_finite(p) for p in choice.completion.logprobs]
    before = len(choice.prompt_ids) - 1
    best: list[dict[int, float]] = [{} for _ in ids]
    if choice.scores is not None:
        places = zip(choice.scores.ids, choice.scores.top, strict=True)
        best = [dict(zip(i, map(_finite, t), strict=True)) for i, t in places]
    if call.echo:
        ids = [*choice.prompt_ids, *ids]
        scored = choice.scores.logprobs[:before] if choice.scores else []
        own = [None, *map(_finite, scored), *own]
        best = [{}, *best]
    else:
        best = best[before:] if choice.scores is not None else best
    tokens = [decode([i]) for i in ids]
    if call.chat:
        rows = zip(tokens, own, best, strict=True)
        content = [
            _token_json(t, p)
            | {"top_logprobs": [_token_json(decode([i]), q) for i, q in b.items()]}
            for t, p, b in rows
        ]
        return {"content": content, "refusal": None}
    offsets, total = [], 0
    for token in tokens:
        offsets.append(total)
        total += len(token)
    alternatives = None
    if call.logprobs:
        # The token itself is among them, as the API says: up to logprobs + 1.
        alternatives = [
            {decode([i]): q for i, q in b.items()} | {token: p}
            if p is not None
            else None
            for token, p, b in zip(tokens, own, best, strict=True)
        ]
    return {
        "tokens": tokens,
        "token_logprobs": own,
        "top_logprobs": alternatives,
        "text_offset": offsets,
    }


def _token_json(text: str, logprob: float | None) -> dict[str, Any]:
    # A token that is a part of a character has no text of its own.
    known = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": known}


def _finite(logprob: float) -> float:
    """``logprob``, or OpenAI's number for one that JSON cannot hold."""
    return logprob if math.isfinite(logprob) else -9999.0


def request_json(model: str, request: Request, *, ours: bool) -> dict[str, Any]:
    """The body of ``POST /v1/completions`` for a record.

    Args:
      ours: whether the server is ours. Others get OpenAI's fields, and further ones
        only where the request needs them; they end at the model's own end of text.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(request.ids),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # Others keep seeds in a signed 64-bit integer.
        "seed": request.seed64 if ours else request.seed64 % 2**63,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.min_p:
        body["min_p"] = sampling.min_p
    if ours:
        body["stop_token_ids"] = list(request.stop_ids)
        body["ignore_eos"] = True
        body["include_stop_str_in_output"] = True
        body["return_token_ids"] = True
    return body


def search_json(
    results: Sequence[Sequence[tuple[Passage, float]]], with_scores: bool
) -> dict[str, Any]:
    """The answer of ``POST /retrieve``: corpus rows, best first, one list per query."""
    rows = []
    for found in results:
        row = []
        for passage, score in found:
            contents = f"{passage.title}\n{passage.text}"
            document = {"id": passage.id, "contents": contents}
            entry = {"document": document, "score": float(score)}
            row.append(entry if with_scores else document)
        rows.append(row)
    return {"result": rows}
