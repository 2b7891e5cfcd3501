"""What a client sent, checked: unknown, missing and wrong fields are named in a 400.

Our additions to OpenAI's completions (``top_k``, ``min_p``, ``stop_token_ids``,
``ignore_eos``, ``include_stop_str_in_output``, ``return_token_ids``) are named and
meant as in vLLM.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rl.records import SamplingParams

# OpenAI's code for a prompt that leaves no room; the client looks for it.
TOO_LONG = "context_length_exceeded"
# Ours, for a model whose logits are not finite; the client looks for it.
NON_FINITE = "non_finite_logits"
MOST = 2**31 - 1
"""Largest number of tokens that may be asked for."""


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
      prompt: text, or a tuple of token ids; for chat, the list of messages.
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

    @property
    def chat(self) -> bool:
        """Whether it is a chat completion."""
        return isinstance(self.prompt, list)


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
    max_tokens = _number(body, "max_tokens", 16, 1, MOST, int)
    return _call(body, call_prompt, max_tokens, logprobs not in (None, False))


def parse_chat(body: Any) -> Call:
    """Checks a body of ``POST /v1/chat/completions``; see `parse_completion`."""
    _check_names(body, _CHAT)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_field("messages", messages, "must be a list of messages")
    messages = [_message(message) for message in messages]
    tools = body.get("tools")
    if tools is not None and not (
        isinstance(tools, list) and all(isinstance(t, dict) for t in tools)
    ):
        raise bad_field("tools", tools, "must be a list of objects")
    limit = _number(body, "max_tokens", None, 1, MOST, int)
    limit = _number(body, "max_completion_tokens", limit, 1, MOST, int)
    return _call(body, messages, limit, _flag(body, "logprobs", False))


def _message(message: Any) -> dict[str, Any]:
    """One message of OpenAI's chat format as `models.chat` takes it."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("system", "user", "assistant", "tool"):
        raise bad_field("messages", message, "each needs a role and content")
    calls = message.get("tool_calls") or []
    content = message.get("content")
    content = "" if content is None and calls else content
    if not isinstance(content, str):
        raise bad_field("messages", message, "content must be a string")
    if not calls:
        return {"role": role, "content": content}
    try:
        functions = [
            {
                "name": c["function"]["name"],
                "arguments": json.loads(c["function"]["arguments"]),
            }
            for c in calls
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise bad_field("tool_calls", calls, "not in OpenAI's format") from error
    return {"role": role, "content": content, "tool_calls": functions}


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
    seed = _number(body, "seed", None, -(2**63), 2**64 - 1, int)
    # -1 is vLLM's and SGLang's way to say "no top_k"; ours is 0.
    top_k = max(_number(body, "top_k", 0, -1, MOST, int), 0)
    sampling = SamplingParams(
        temperature=_number(body, "temperature", 1.0, 0.0, 100.0),
        top_p=_number(body, "top_p", 1.0, 1e-6, 1.0),
        top_k=top_k,
        min_p=_number(body, "min_p", 0.0, 0.0, 1.0),
        max_new_tokens=max_tokens or 1,
    )
    if problem := sampling.problem():  # such as a temperature that is 0 in float32
        name, _, rest = problem.partition("=")
        raise bad_field(name, getattr(sampling, name), rest.partition(": ")[2])
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


def _check_names(body: Any, known: set[str], neutral: Mapping = _NEUTRAL) -> None:
    if not isinstance(body, dict):
        raise bad_field("body", body, "must be a JSON object")
    for name, value in body.items():
        if name in neutral:
            if value not in neutral[name]:
                only = neutral[name][0]
                raise bad_field(name, value, f"not supported: leave it at {only!r}")
        elif name not in known:
            raise bad_field(name, value, "unknown field: remove it")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(i) is int and 0 <= i < 2**31 for i in value
    )


def _number(
    body: Mapping, name: str, default: Any, low: float, high: float, kind: type = float
) -> Any:
    value = body.get(name)
    if value is None:
        return default
    # "not within", rather than "below or above", so that NaN is refused, too.
    if type(value) not in (int, kind) or not low <= value <= high:
        what = "a number" if kind is float else "an integer"
        raise bad_field(name, value, f"must be {what} between {low} and {high}")
    return kind(value)


def _flag(body: Mapping, name: str, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise bad_field(name, value, "must be true or false")
    return value


def parse_search(body: Any, default_topk: int) -> tuple[list[str], int, bool]:
    """Checks a body of ``POST /retrieve``: queries, passages per query, with scores.

    Raises:
      ApiError: 400 with the first field that is missing, unknown or wrong.
    """
    _check_names(body, {"queries", "topk", "return_scores"}, neutral={})
    queries = body.get("queries")
    if not isinstance(queries, list) or not all(isinstance(q, str) for q in queries):
        raise bad_field("queries", queries, "must be a list of strings")
    topk = _number(body, "topk", 0, 0, 1000, int)
    return queries, topk or default_topk, _flag(body, "return_scores", False)
