"""What goes over the wire: OpenAI's and Search-R1's JSON, to and from records.

Pure functions. ``parse_*`` check what a client sent and raise `ApiError`; ``*_json``
build what the server answers; ``read_*`` are the client's side of the same formats.
Our additions to OpenAI's completions (``top_k``, ``min_p``, ``stop_token_ids``,
``ignore_eos``, ``include_stop_str_in_output``, ``return_token_ids``) are named and
meant as in vLLM.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.passages import Passage
from rl.records import Completion, Request, SamplingParams


class ApiError(Exception):
    """An answer other than 200: status, a line for a person, a code for a program."""

    def __init__(self, status: int, message: str, *, code: str, retry_after: int = 0):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """OpenAI's coarse class of errors: whose fault it is."""
        return "invalid_request_error" if self.status < 500 else "server_error"

    def json(self) -> dict[str, Any]:
        """The body that goes with it."""
        error = {"message": self.message, "type": self.type, "code": self.code}
        return {"error": error}


def bad_field(name: str, value: Any, why: str) -> ApiError:
    """A 400 that names field, value and what was expected."""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return ApiError(400, f"{name}: {shown}: {why}", code="invalid_value")


@dataclass(frozen=True, kw_only=True)
class Call:
    """A checked body of /v1/completions or /v1/chat/completions.

    Attributes:
      prompt: text or token ids; for chat, the list of messages.
      max_tokens: None stands for "up to the model's length".
      stop_ids: as sent; ``ignore_eos`` says whether the model's own are added.
    """

    model: str
    prompt: Any
    sampling: SamplingParams
    max_tokens: int | None
    stop: tuple[str, ...]
    stop_ids: tuple[int, ...]
    ignore_eos: bool
    seed: int
    tools: list[dict[str, Any]] | None
    logprobs: bool
    include_stop: bool
    return_ids: bool


_COMMON = {
    "model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "seed",
    "stop_token_ids", "ignore_eos", "include_stop_str_in_output", "return_token_ids",
    "logprobs", "user",
}  # fmt: skip
_COMPLETION = _COMMON | {"prompt"}
_CHAT = _COMMON | {"messages", "tools", "max_completion_tokens"}

# OpenAI's fields that we accept only with the value that changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "best_of": (1, None),
    "echo": (False, None),
    "stream": (False, None),
    "suffix": (None, ""),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": (None, {}),
    "top_logprobs": (0, None),
    "tool_choice": ("auto", "none", None),
}


def parse_completion(body: Any) -> Call:
    """Checks a body of ``POST /v1/completions``.

    Raises:
      ApiError: 400 with the first field that is missing, unknown or wrong.
    """
    _check_names(body, _COMPLETION)
    prompt = body.get("prompt")
    if (
        isinstance(prompt, list)
        and len(prompt) == 1
        and isinstance(prompt[0], list | str)
    ):
        prompt = prompt[0]
    if not (isinstance(prompt, str) or _are_ids(prompt)) or not prompt:
        raise bad_field("prompt", prompt, "must be one text or one list of token ids")
    logprobs = body.get("logprobs")
    if logprobs not in (None, False, True, 0, 1):
        raise bad_field("logprobs", logprobs, "only the sampled token's: 0 or 1")
    call_prompt = prompt if isinstance(prompt, str) else tuple(prompt)
    max_tokens = _integer(body, "max_tokens", 16, low=1)
    return _call(body, call_prompt, max_tokens, logprobs not in (None, False))


def parse_chat(body: Any) -> Call:
    """Checks a body of ``POST /v1/chat/completions``; see `parse_completion`."""
    _check_names(body, _CHAT)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_field("messages", messages, "must be a list of messages")
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "user", "assistant", "tool"):
            raise bad_field("messages", message, "each needs a role and content")
        if not isinstance(message.get("content"), str):
            raise bad_field("messages", message, "content must be a string")
    tools = body.get("tools")
    if tools is not None and not (
        isinstance(tools, list) and all(isinstance(t, dict) for t in tools)
    ):
        raise bad_field("tools", tools, "must be a list of objects")
    limit = _integer(body, "max_tokens", None, low=1)
    limit = _integer(body, "max_completion_tokens", limit, low=1)
    return _call(body, messages, limit, _flag(body, "logprobs", False))


def _call(body: Mapping, prompt: Any, max_tokens: int | None, logprobs: bool) -> Call:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_field("model", model, "must be the name of a model, see /v1/models")
    stop = body.get("stop")
    stop = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
        raise bad_field("stop", stop, "must be a string or a list of strings")
    stop_ids = body.get("stop_token_ids")
    if stop_ids is not None and not _are_ids(stop_ids):
        raise bad_field("stop_token_ids", stop_ids, "must be a list of token ids")
    seed = _integer(body, "seed", None, low=-(2**63), high=2**64 - 1)
    # -1 is vLLM's and SGLang's way to say "no top_k"; ours is 0.
    top_k = max(_integer(body, "top_k", 0, low=-1), 0)
    sampling = SamplingParams(
        temperature=_number(body, "temperature", 1.0, low=0.0, high=100.0),
        top_p=_number(body, "top_p", 1.0, low=0.0, high=1.0),
        top_k=top_k,
        min_p=_number(body, "min_p", 0.0, low=0.0, high=1.0),
        max_new_tokens=max_tokens or 1,
    )
    return Call(
        model=model,
        prompt=prompt,
        sampling=sampling,
        max_tokens=max_tokens,
        stop=tuple(stop),
        stop_ids=tuple(stop_ids or ()),
        ignore_eos=_flag(body, "ignore_eos", False),
        seed=secrets.randbits(64) if seed is None else seed % 2**64,
        tools=body.get("tools"),
        logprobs=logprobs,
        include_stop=_flag(body, "include_stop_str_in_output", False),
        return_ids=_flag(body, "return_token_ids", False),
    )


def _check_names(body: Any, known: set[str]) -> None:
    if not isinstance(body, dict):
        raise bad_field("body", body, "must be a JSON object")
    for name, value in body.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                only = _NEUTRAL[name][0]
                raise bad_field(name, value, f"not supported: leave it at {only!r}")
        elif name not in known:
            raise bad_field(name, value, "unknown field: remove it")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(i) is int and 0 <= i < 2**31 for i in value
    )


def _number(body: Mapping, name: str, default: Any, *, low: Any, high: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    # "not within", rather than "below or above", so that NaN is refused, too.
    if type(value) not in (int, float) or not low <= value <= high:
        raise bad_field(name, value, f"must be a number within {low}..{high}")
    return float(value)


def _integer(
    body: Mapping, name: str, default: Any, *, low: int, high: int = 2**31 - 1
) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise bad_field(name, value, f"must be an integer within {low}..{high}")
    return value


def _flag(body: Mapping, name: str, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise bad_field(name, value, "must be true or false")
    return value


def completion_json(
    call: Call,
    prompt_ids: Sequence[int],
    completion: Completion,
    decode: Callable[[list[int]], str],
    *,
    chat: bool,
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
    if chat:
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    if call.logprobs:
        tokens = [decode([i]) for i in completion.ids]
        choice["logprobs"] = _logprobs_json(tokens, completion.logprobs, chat=chat)
    if call.return_ids:
        choice["token_ids"] = list(completion.ids)
        choice["prompt_token_ids"] = list(prompt_ids)
    sampled = len(completion.ids)
    return {
        "id": ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(8),
        "object": "chat.completion" if chat else "text_completion",
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


def _logprobs_json(tokens: list[str], logprobs: Sequence[float], *, chat: bool) -> Any:
    if chat:
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


def request_json(
    model: str, request: Request, *, ours: bool, logprobs: bool = False
) -> dict[str, Any]:
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
    if logprobs:
        body["logprobs"] = 1
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


def read_completion(body: Mapping[str, Any]) -> Completion:
    """The record in an answer of ``POST /v1/completions``, ours or another server's.

    Another server may give no token ids (``ids`` is then empty) and cuts the stop
    string off, which is put back where it says which one it was (vLLM: ``stop_reason``,
    SGLang: ``matched_stop``).
    """
    choice, usage = body["choices"][0], body.get("usage") or {}
    text, stop = choice["text"], choice.get("stop_reason")
    if not isinstance(stop, str):
        stop = choice.get("matched_stop")
    stop = stop if isinstance(stop, str) else None
    if stop and not text.endswith(stop):
        text += stop
    logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or ()
    details = usage.get("prompt_tokens_details") or {}
    return Completion(
        ids=tuple(choice.get("token_ids") or ()),
        logprobs=tuple(logprobs),
        text=text,
        finish_reason="stop" if choice.get("finish_reason") == "stop" else "length",
        stop_string=stop,
        prompt_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
    )


def parse_search(body: Any, default_topk: int) -> tuple[list[str], int, bool]:
    """Checks a body of ``POST /retrieve``: queries, passages per query, with scores.

    Raises:
      ApiError: 400 with the first field that is missing, unknown or wrong.
    """
    if not isinstance(body, dict):
        raise bad_field("body", body, "must be a JSON object")
    for name in body:
        if name not in ("queries", "topk", "return_scores"):
            raise bad_field(name, body[name], "unknown field: remove it")
    queries = body.get("queries")
    if not isinstance(queries, list) or not all(isinstance(q, str) for q in queries):
        raise bad_field("queries", queries, "must be a list of strings")
    topk = _integer(body, "topk", 0, low=0, high=1000)
    return queries, topk or default_topk, _flag(body, "return_scores", False)


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


def read_search(body: Mapping[str, Any]) -> list[list[tuple[Passage, float]]]:
    """The passages and scores in an answer of ``POST /retrieve``."""
    return [
        [(_passage(entry["document"]), float(entry["score"])) for entry in found]
        for found in body["result"]
    ]


def _passage(document: Mapping[str, Any]) -> Passage:
    """Spec 2.4: the title is the first line of the contents."""
    title, _, text = str(document["contents"]).partition("\n")
    return Passage(id=str(document.get("id", "")), title=title, text=text)
