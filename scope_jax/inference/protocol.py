"""What goes over the wire: OpenAI's and Search-R1's JSON, made from records.

By the server and by the client; ``answers`` is the client's side of what comes back.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from retrieval.passages import Passage
from rl.records import Completion, Request
from scope_jax.inference.validation import Call


def completion_json(
    call: Call,
    prompt_ids: Sequence[int],
    completion: Completion,
    decode: Callable[[list[int]], str],
) -> dict[str, Any]:
    """The answer to a completion or chat completion, in OpenAI's format."""
    text = completion.text
    if completion.stop_string and not call.include_stop:
        text = text.removesuffix(completion.stop_string)
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_string,
        "logprobs": None,
    }
    if call.chat:
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    if call.logprobs:
        tokens = [decode([i]) for i in completion.ids]
        choice["logprobs"] = _logprobs_json(call, tokens, completion.logprobs)
    if call.return_ids:
        choice["token_ids"] = list(completion.ids)
        choice["prompt_token_ids"] = list(prompt_ids)
    sampled = len(completion.ids)
    return {
        "id": ("chatcmpl-" if call.chat else "cmpl-") + secrets.token_hex(8),
        "object": "chat.completion" if call.chat else "text_completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": len(prompt_ids),
            "completion_tokens": sampled,
            "total_tokens": len(prompt_ids) + sampled,
            "prompt_tokens_details": {"cached_tokens": completion.cached_tokens},
        },
    }


def _logprobs_json(call: Call, tokens: list[str], logprobs: Sequence[float]) -> Any:
    if call.chat:
        pairs = zip(tokens, logprobs, strict=True)
        return {
            "content": [
                {"token": t, "logprob": p, "top_logprobs": []} for t, p in pairs
            ]
        }
    offsets, total = [], 0
    for token in tokens:
        offsets.append(total)
        total += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": list(logprobs),
        "top_logprobs": None,
        "text_offset": offsets,
    }


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
