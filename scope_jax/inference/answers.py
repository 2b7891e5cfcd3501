"""What other programs answer, checked where it enters: OpenAI's and Search-R1's JSON.

A server may be anybody's: vLLM, SGLang, a retrieval server, a proxy in between. What is
not of the expected form is a ``BadAnswer``, whatever is wrong with it, and the client
treats it as the server's fault.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import httpx
from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat, ValidationError

from models.control_tokens import encodable
from retrieval.passages import Passage
from rl.engine.counters import COUNTERS, Totals
from rl.records import Completion

Form = TypeVar("Form", bound=BaseModel)


class BadAnswer(ValueError):
    """An answer that is not of the form that was asked for; the message is one line."""


def _encodable(value: Any) -> Any:
    """Half a surrogate pair is valid JSON, and no file can hold it."""
    return encodable(value) if isinstance(value, str) else value


def _text_of_null(value: Any) -> Any:
    """Some servers answer null where nothing was sampled."""
    return "" if value is None else _encodable(value)


Text = Annotated[str, BeforeValidator(_encodable)]
TextOrNull = Annotated[str, BeforeValidator(_text_of_null)]


class _Logprobs(BaseModel):
    token_logprobs: list[float | None] | None = None


class _Choice(BaseModel):
    text: TextOrNull
    finish_reason: str | None = None
    stop_reason: Any = None
    matched_stop: Any = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _Details(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Completions(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


class _Line(BaseModel):
    index: Annotated[int, Field(ge=0)]
    status: int
    body: Any


class _Document(BaseModel):
    id: Text | int = ""
    contents: Text


class _Found(BaseModel):
    document: _Document
    score: FiniteFloat


class _Search(BaseModel):
    result: list[list[_Found]]


class _Loaded(BaseModel):
    hash: str


class _Model(BaseModel):
    id: str
    hash: str


class _Models(BaseModel):
    data: list[_Model]


class _Ready(BaseModel):
    missing: dict[str, Any]


class _Stats(BaseModel):
    engines: dict[str, dict[str, Any]]


def body_of(response: httpx.Response) -> Any:
    """The JSON of a response.

    Raises:
      BadAnswer: it is none, or too deep to be read.
    """
    try:
        return response.json()
    except RecursionError:
        raise BadAnswer("JSON that is nested too deep") from None
    except ValueError as error:
        shown = response.text[:60].strip() or "nothing"
        raise BadAnswer(f"no JSON ({error}): {shown!r}") from None


def read_completion(body: Any) -> Completion:
    """The record in an answer of ``POST /v1/completions``, ours or another server's.

    Another server may give no token ids (``ids`` is then empty) and cuts the stop
    string off, which is put back where it says which one it was (vLLM: ``stop_reason``,
    SGLang: ``matched_stop``).

    Raises:
      BadAnswer: it is of another form.
    """
    answer = read(_Completions, body)
    choice, usage = answer.choices[0], answer.usage or _Usage()
    text, stops = choice.text, (choice.stop_reason, choice.matched_stop)
    stop = next((encodable(s) for s in stops if isinstance(s, str)), None)
    if stop and not text.endswith(stop):
        text += stop
    details = usage.prompt_tokens_details or _Details()
    logprobs = (choice.logprobs or _Logprobs()).token_logprobs
    return Completion(
        ids=tuple(choice.token_ids or ()),
        logprobs=tuple(logprobs or ()),
        text=text,
        finish_reason="stop" if choice.finish_reason == "stop" else "length",
        stop_string=stop,
        prompt_tokens=usage.prompt_tokens or 0,
        cached_tokens=details.cached_tokens or 0,
    )


def rows_of(body: Any, queries: int) -> list[Any]:
    """The list of each query in an answer of ``POST /retrieve``, as it came.

    Raises:
      BadAnswer: it has no such lists, or another number of them.
    """
    rows = body.get("result") if isinstance(body, dict) else None
    if not isinstance(rows, list) or len(rows) != queries:
        raise BadAnswer(f"result: not a list for each of {queries} queries")
    return rows


def read_search(body: Any, queries: int) -> list[list[tuple[Passage, float]]]:
    """The passages and scores in an answer of ``POST /retrieve``, by query.

    The title is the first line of the contents (spec 2.4).

    Raises:
      BadAnswer: it is of another form, or for another number of queries.
    """
    answer = read(_Search, body)
    if len(answer.result) != queries:
        raise BadAnswer(f"result: {len(answer.result)} lists for {queries} queries")
    return [
        [(_passage(one.document), one.score) for one in found]
        for found in answer.result
    ]


def read_hash(body: Any) -> str:
    """The content hash in an answer of ``POST /v1/models/NAME``.

    Raises:
      BadAnswer: it is of another form.
    """
    return read(_Loaded, body).hash


def read_weights(body: Any) -> dict[str, str]:
    """Content hash of each model, by name, in an answer of ``GET /v1/models``.

    Raises:
      BadAnswer: it is of another form.
    """
    return {model.id: model.hash for model in read(_Models, body).data}


def read_missing(body: Any) -> str:
    """What a server is waiting for, in an answer of ``GET /ready``; in words.

    Raises:
      BadAnswer: it is of another form.
    """
    missing = read(_Ready, body).missing
    return ", ".join(f"{name}: {what}" for name, what in missing.items())


def read_stats(body: Any, names: Sequence[str]) -> dict[tuple[str, str], Totals]:
    """Totals in an answer of ``GET /stats``, by model and engine id.

    Args:
      names: models to look for; of those that share an engine, the first has it.

    Raises:
      BadAnswer: it is of another form.
    """
    engines = read(_Stats, body).engines
    found: dict[str, tuple[str, Totals]] = {}
    for name in names:
        if name in engines:
            engine = engines[name]
            try:
                counted = {key: float(engine[key]) for key in COUNTERS}
                found.setdefault(str(engine["id"]), (name, counted))
            except (KeyError, TypeError, ValueError) as error:
                raise BadAnswer(f"engines.{name}: {error!r}") from None
    return {(name, id): counted for id, (name, counted) in found.items()}


def read_error(response: httpx.Response) -> tuple[str, str | None]:
    """Message and code of an error, in our format, vLLM's, SGLang's or none."""
    try:
        body = body_of(response)
    except BadAnswer:
        return _shown(response.text or response.reason_phrase), None
    return error_of(body)


def read_line(line: Any, items: int) -> tuple[int, int, Any]:
    """Index, status and body of one answer of a batch, see ``batches``.

    Args:
      items: of the batch.

    Raises:
      BadAnswer: it is of another form.
    """
    found = read(_Line, line)
    if found.index >= items:
        raise BadAnswer(f"index: {found.index} in a batch of {items}")
    return found.index, found.status, found.body


def error_of(body: Any) -> tuple[str, str | None]:
    """``read_error``, of its JSON."""
    if isinstance(body, dict):
        error = body.get("error", body)
        if isinstance(error, dict):
            message = error.get("message") or error.get("detail") or error
            code = error.get("code")
            return _shown(message), code if isinstance(code, str) else None
        return _shown(error), None
    return _shown(body), None


def read(form: type[Form], body: Any) -> Form:
    """A body as a form.

    Raises:
      BadAnswer: it is of another form.
    """
    try:
        return form.model_validate(body)
    except ValidationError as error:
        if isinstance(body, dict) and body.get("error"):
            raise BadAnswer(f"an error as a success: {error_of(body)[0]}") from None
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise BadAnswer(
            f"{place}: {first['msg']}, not {_shown(first['input'])}"
        ) from None


def _passage(document: _Document) -> Passage:
    title, _, text = document.contents.partition("\n")
    return Passage(id=str(document.id), title=title, text=text)


def _shown(value: Any) -> str:
    """A foreign value in one short line."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    except RecursionError:
        text = type(value).__name__
    text = " ".join(encodable(text).split())
    return text if len(text) <= 200 else f"{text[:200]} .."
