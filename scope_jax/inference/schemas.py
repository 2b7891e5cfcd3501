"""Bodies of requests, and with them the schemas of ``/openapi.json``.

Our additions to OpenAI's completions (``top_k``, ``min_p``, ``stop_token_ids``,
``ignore_eos``, ``include_stop_str_in_output``, ``return_token_ids``) are named and
meant as in vLLM.
"""

import secrets
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)

from rl.records import SamplingParams
from scope_jax.inference.errors import ApiError, bad_field, read_json, too_deep

MOST = 2**31 - 1
"""Largest number of tokens that may be asked for."""
MOST_CHOICES = 128
MOST_PROMPTS = 2048
MOST_ALTERNATIVES = 20
MOST_MESSAGES = 8192
MOST_PARTS = 1024
"""Of a message; also of calls in it, and of tools."""
# The longest query that a transformer encoder would read is about this long.
QUERY_CHARACTERS = 32_768

T = TypeVar("T", bound="Body")


class Body(BaseModel):
    """A request's body: exactly these fields, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    unsupported: ClassVar[frozenset[str]] = frozenset()
    """Fields that may be there only with the value that changes nothing."""

    @classmethod
    def checked(cls: type[T], body: Any) -> T:
        """The body of a request.

        Raises:
          ApiError: 400 with the first field that is missing, unknown or wrong.
        """
        if not isinstance(body, dict):
            raise bad_field("body", body, "must be a JSON object")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            # Of a value's several forms the one that it is nearest to: deepest in.
            first = max(found, key=lambda one: len(one["loc"]))
        except RecursionError as error:
            raise too_deep() from error
        where = [str(part) for part in first["loc"] if _is_place(part)]
        name, value = ".".join(where) or "body", first["input"]
        why = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            why = "unknown field: remove it"
        elif first["type"] == "missing":
            value, why = None, "is missing"
        elif where and where[0] in cls.unsupported:
            why = f"not supported: leave it out ({why})"
        raise bad_field(name, value, why)


def _is_place(part: str | int) -> bool:
    """Whether a part of an error's place is in the JSON, not a branch of a type."""
    return isinstance(part, int) or part.isidentifier()


def _are_ids(value: Any) -> bool:
    # Without a loop in Python: there may be a million.
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        return False
    return not value or (min(value) >= 0 and max(value) < 2**31)


def _prompts(value: Any) -> list[Any]:
    """One or more prompts, each a text or a list of token ids."""
    if value and (isinstance(value, str) or _are_ids(value)):
        return [value]
    if not isinstance(value, list) or not 0 < len(value) <= MOST_PROMPTS:
        raise ValueError(f"must be a text, token ids, or a list of 1 to {MOST_PROMPTS}")
    for one in value:
        if not (one and (isinstance(one, str) or _are_ids(one))):
            raise ValueError("must be text or token ids, and not empty")
    return value


Prompts = Annotated[
    list[Any],
    PlainValidator(
        _prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]
    ),
]


def _in_turn(value: Any) -> Any:
    """``value``; before each of many, others may go on.

    pydantic checks a hundred thousand messages in one go, in half a second. Where it
    calls a function of Python, the interpreter lets other threads in.
    """
    return value


InTurn = BeforeValidator(_in_turn)
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = Annotated[list[Stop], Field(fail_fast=True, max_length=64)]
StopId = Annotated[int, Field(ge=0, le=MOST)]
StopIds = Annotated[list[StopId], Field(fail_fast=True)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Zero = Annotated[float, Field(ge=0, le=0)] | None
Flag = bool | None


class StreamOptions(Body):
    """How a stream ends."""

    include_usage: Flag = None
    include_obfuscation: Any = None


class _Sampled(Body):
    """What both kinds of completions have in common."""

    model: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0, le=MOST)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=1e-6, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MOST)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: Stop | Stops | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: Flag = None
    stream_options: StreamOptions | None = None
    stop_token_ids: StopIds | None = None
    ignore_eos: Flag = None
    include_stop_str_in_output: Flag = None
    return_token_ids: Flag = None
    # Not supported: only the value that changes nothing.
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    # Ignored: they change no answer.
    user: Any = None
    store: Any = None
    metadata: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None

    def common(self) -> dict[str, Any]:
        """The fields of `Call` that both kinds have."""
        sampling = SamplingParams(
            temperature=either(self.temperature, 1.0),
            top_p=either(self.top_p, 1.0),
            # -1 is vLLM's and SGLang's way to say "no top_k"; ours is 0.
            top_k=max(self.top_k or 0, 0),
            min_p=either(self.min_p, 0.0),
        )
        if problem := sampling.problem():  # such as a temperature that is 0 in float32
            name, _, rest = problem.partition("=")
            raise bad_field(name, getattr(sampling, name), rest.partition(": ")[2])
        if self.stream_options is not None and not self.stream:
            raise bad_field("stream_options", {}, "only with stream: true")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or ()
        return {
            "model": self.model,
            "sampling": sampling,
            "stop": tuple(stop),
            "stop_ids": tuple(self.stop_token_ids or ()),
            "ignore_eos": bool(self.ignore_eos),
            "seed": secrets.randbits(64) if self.seed is None else self.seed % 2**64,
            "include_stop": bool(self.include_stop_str_in_output),
            "return_ids": bool(self.return_token_ids),
            "n": self.n or 1,
            "stream": bool(self.stream),
            "include_usage": bool(
                self.stream_options and self.stream_options.include_usage
            ),
        }


class CompletionBody(_Sampled):
    """Body of ``POST /v1/completions``."""

    unsupported = frozenset(
        {"suffix", "frequency_penalty", "presence_penalty", "logit_bias"}
    )
    prompt: Prompts
    logprobs: bool | Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    echo: Flag = None
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None


class BatchBody(Body):
    """Body of ``POST /v1/completions/batch``."""

    requests: Annotated[
        list[dict[str, Any]],
        Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True),
    ]
    """Bodies of ``POST /v1/completions``, without streams."""


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class Function(Body):
    """What a call calls."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call in an assistant's message."""

    id: Any = None
    type: Any = None
    index: Any = None
    function: Function


FEW = Field(fail_fast=True, max_length=MOST_PARTS)
Part = Annotated[TextPart, InTurn]
Calling = Annotated[ToolCall, InTurn]


class Message(Body):
    """One message of OpenAI's chat format."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], FEW] | None = None
    tool_calls: Annotated[list[Calling], FEW] | None = None
    # Ignored: no template shows them.
    name: Any = None
    tool_call_id: Any = None
    refusal: Any = None
    audio: None = None
    annotations: Any = None
    function_call: None = None

    def plain(self) -> dict[str, Any]:
        """The message as `models.chat` takes it.

        Templates know no developers: OpenAI's name for whom they call system.
        """
        role = "system" if self.role == "developer" else self.role
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text or part.refusal or "" for part in content)
        if content is None and not self.tool_calls:
            raise bad_field("messages", {"role": self.role}, "each needs content")
        message: dict[str, Any] = {"role": role, "content": content or ""}
        if self.tool_calls:
            message["tool_calls"] = [_called(call.function) for call in self.tool_calls]
        return message


def _called(function: Function) -> dict[str, Any]:
    try:
        arguments = read_json(function.arguments.encode())
    except ApiError as error:
        raise bad_field(
            "tool_calls", function.arguments, "arguments: no JSON"
        ) from error
    return {"name": function.name, "arguments": arguments}


class ResponseFormat(Body):
    """Free text, or a JSON object."""

    type: Literal["text", "json_object"]


class ChatBody(_Sampled):
    """Body of ``POST /v1/chat/completions``."""

    unsupported = frozenset(
        {"response_format", "tool_choice", "modalities", "function_call", "functions"}
        | {"frequency_penalty", "presence_penalty", "logit_bias", "audio"}
    )
    messages: Annotated[
        list[Annotated[Message, InTurn]],
        Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES),
    ]
    max_completion_tokens: Annotated[int, Field(ge=0, le=MOST)] | None = None
    tools: Annotated[list[dict[str, Any]], FEW] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    logprobs: Flag = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    functions: None = None
    function_call: None = None
    # Ignored: hints, which change no answer of ours.
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    prediction: Any = None


class SearchBody(Body):
    """Body of ``POST /retrieve``, in Search-R1's wire format."""

    queries: Annotated[
        list[Annotated[str, Field(max_length=QUERY_CHARACTERS)]], Field(fail_fast=True)
    ]
    topk: Annotated[int, Field(ge=0, le=1000)] | None = None
    return_scores: Flag = None


class ModelBody(Body):
    """Body of ``POST /v1/models/NAME``."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    hash: Annotated[str, Field(max_length=128)] | None = None


def either(value: Any, default: Any) -> Any:
    """``value``, or ``default`` where it is None."""
    return default if value is None else value
