"""The server's routes: check a request, hand it to engine or searcher, answer."""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from models.errors import UserError
from rl.engine.config import EngineConfig
from rl.engine.counters import totals
from rl.records import Request
from scope_jax.inference.batcher import SearchBatcher
from scope_jax.inference.config import InferenceConfig, ModelSource
from scope_jax.inference.models import ModelTable, Served
from scope_jax.inference.protocol import completion_json, search_json
from scope_jax.inference.validation import (
    NON_FINITE,
    TOO_LONG,
    ApiError,
    Call,
    bad_field,
    parse_chat,
    parse_completion,
    parse_search,
)

log = logging.getLogger(__name__)

# A prompt of a million token ids as JSON is about 7 MB.
MAX_BODY_BYTES = 32 * 2**20
# What nginx answers when the client has closed its connection; nobody reads it.
CLIENT_GONE = 499

Endpoint = Callable[[HttpRequest], Awaitable[Response]]


class App:
    """All that the routes share.

    Requests that arrive while something is being loaded wait for it: a restart may take
    minutes, longer than a client's retries alone.

    Attributes:
      models: None until ``models_started`` is set.
      search: None until ``search_started`` is set; without passages, always.
      missing: what the start is still waiting for: name -> what is being done.
      on_fatal: called when this process cannot continue and a new one should take over.
    """

    def __init__(self, config: InferenceConfig, *, default_topk: int = 3):
        self.config = config
        self.default_topk = default_topk
        self.models: ModelTable | None = None
        self.models_started = asyncio.Event()
        self.search: SearchBatcher | None = None
        self.search_started = asyncio.Event()
        self.missing: dict[str, str] = {}
        self.on_fatal: Callable[[Exception], None] = lambda error: None
        self.in_flight = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()

    def starlette(self, lifespan: Any = None) -> Starlette:
        """The ASGI application."""
        routes = [
            ("/retrieve", "POST", self.retrieve),
            ("/v1/completions", "POST", self.completions),
            ("/v1/chat/completions", "POST", self.chat),
            ("/v1/models", "GET", self.list_models),
            ("/v1/models/{name}", "POST", self.load_model),
            ("/v1/models/{name}", "DELETE", self.unload_model),
            ("/health", "GET", self.health),
            ("/ready", "GET", self.ready),
            ("/stats", "GET", self.stats),
            ("/metrics", "GET", self.metrics),
        ]
        return Starlette(
            routes=[
                Route(path, self._endpoint(path, handler), methods=[method])
                for path, method, handler in routes
            ],
            lifespan=lifespan,
            exception_handlers={404: _no_route, 405: _no_route},
        )

    def _endpoint(self, path: str, handler: Endpoint) -> Endpoint:
        """Adds what all routes need: errors as JSON, counts and times."""

        async def endpoint(request: HttpRequest) -> Response:
            start = time.monotonic()
            try:
                response = await handler(request)
            except ApiError as error:
                response = _error_response(error)
            except ClientDisconnect:
                response = Response(status_code=CLIENT_GONE)
            except UserError as error:
                response = _error_response(
                    ApiError(400, str(error), code="invalid_value")
                )
            except Exception as error:
                log.exception("%s failed", path)
                text = f"{type(error).__name__}: {error}".split("\n")[0]
                response = _error_response(ApiError(500, text, code="internal_error"))
            self.requests[path, response.status_code] += 1
            self.seconds[path] += time.monotonic() - start
            return response

        return endpoint

    async def health(self, request: HttpRequest) -> Response:
        """The process is alive."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: HttpRequest) -> Response:
        """200 when everything is loaded and compiled, else 503 and what is missing."""
        missing = dict(self.missing)
        if self.models is not None:
            missing |= self.models.loading
        body = {"ready": not missing, "missing": missing}
        return JSONResponse(body, status_code=503 if missing else 200)

    async def retrieve(self, request: HttpRequest) -> Response:
        """Search in Search-R1's wire format."""
        queries, topk, scores = parse_search(await _body(request), self.default_topk)
        found = await _unless_gone(request, self._search(queries, topk))
        return JSONResponse(search_json(found, scores))

    async def completions(self, request: HttpRequest) -> Response:
        """OpenAI's completions."""
        return await self._sample(request, parse_completion(await _body(request)))

    async def chat(self, request: HttpRequest) -> Response:
        """OpenAI's chat completions, with the model's own template."""
        return await self._sample(request, parse_chat(await _body(request)))

    async def list_models(self, request: HttpRequest) -> Response:
        """Names and content hashes of the weights that are served."""
        served = await (await self._models()).all()
        data = [
            {"id": name, "object": "model", "owned_by": "scope_jax"}
            | {"root": m.source.path, "hash": m.source.hash}
            | {"max_model_len": self.config.engine.max_length}
            for name, m in sorted(served.items())
        ]
        return JSONResponse({"object": "list", "data": data})

    async def load_model(self, request: HttpRequest) -> Response:
        """Loads weights under a name."""
        body = await _body(request)
        if not isinstance(body, dict) or not isinstance(body.get("path"), str):
            raise bad_field("path", body, "must be a model folder on the server")
        digest = body.get("hash") or ""
        if not isinstance(digest, str):
            raise bad_field("hash", digest, "must be a content hash")
        name = request.path_params["name"]
        source = ModelSource(path=body["path"], hash=digest)
        # Shielded: weights must not stay half exchanged because a client went away.
        models = await self._models()
        source = await asyncio.shield(models.load(name, source))
        return JSONResponse({"id": name, "path": source.path, "hash": source.hash})

    async def unload_model(self, request: HttpRequest) -> Response:
        """Ends serving a name."""
        name = request.path_params["name"]
        models = await self._models()
        await asyncio.shield(models.unload(name))
        return JSONResponse({"id": name, "deleted": True})

    async def stats(self, request: HttpRequest) -> Response:
        """What each model's engine has counted since its start, and the engine's id."""
        names = self.models.names if self.models is not None else {}
        found = list(names.items())
        # All at once: each may have to wait for its engine.
        counted = await asyncio.gather(*(one.call(totals) for _, one in found))
        engines = {
            name: {"id": served.id} | counts
            for (name, served), counts in zip(found, counted, strict=True)
        }
        return JSONResponse({"engines": engines})

    async def metrics(self, request: HttpRequest) -> Response:
        """Counters in Prometheus's text format."""
        lines = [f"scope_in_flight {self.in_flight}"]
        for (path, status), count in sorted(self.requests.items()):
            labels = f'path="{path}",status="{status}"'
            lines.append(f"scope_requests_total{{{labels}}} {count}")
        for path, seconds in sorted(self.seconds.items()):
            lines.append(f'scope_request_seconds_total{{path="{path}"}} {seconds:.6f}')
        for (model, kind), count in sorted(self.tokens.items()):
            labels = f'model="{model}",kind="{kind}"'
            lines.append(f"scope_tokens_total{{{labels}}} {count}")
        if self.search is not None:
            lines.append(f"scope_search_queries_total {self.search.queries}")
            lines.append(f"scope_search_calls_total {self.search.calls}")
        if self.models is not None:
            for model, served in list(self.models.names.items()):
                stats = await served.call(lambda engine: engine.stats())
                for name, value in stats.items():
                    name = "".join(c if c.isalnum() else "_" for c in name)
                    lines.append(f'scope_engine_{name}{{model="{model}"}} {value}')
        return PlainTextResponse("\n".join(lines) + "\n")

    async def _models(self) -> ModelTable:
        await self.models_started.wait()
        assert self.models is not None
        return self.models

    async def _search(self, queries: list[str], topk: int) -> list[Any]:
        if "retrieval" in self.missing:
            await self.search_started.wait()
        if self.search is None:
            why = "retrieval: this server has no passages: set retrieval.passages"
            raise ApiError(404, why, code="no_retrieval")
        return await self.search(queries, topk)

    async def _sample(self, request: HttpRequest, call: Call) -> Response:
        if self.in_flight >= self.config.max_queue:
            why = f"{self.in_flight} completions are in progress: try again"
            raise ApiError(429, why, code="queue_full", retry_after=1)
        self.in_flight += 1
        try:
            return JSONResponse(await _unless_gone(request, self._complete(call)))
        finally:
            self.in_flight -= 1

    async def _complete(self, call: Call) -> dict[str, Any]:
        served = await (await self._models()).get(call.model)
        asked = _request(served, call, self.config.engine)
        try:
            completion = await served.complete(asked)
        except RuntimeError as error:
            # What is wrong with a request ends that request; this ended the engine.
            self.on_fatal(error)
            raise
        if completion.finish_reason == "error" and not completion.problem:
            why = f"model {call.model}: its logits are not finite: check its weights"
            raise ApiError(500, why, code=NON_FINITE)
        if completion.finish_reason not in ("stop", "length"):
            why = f"model {call.model}: completion ended: {completion.finish_reason}"
            raise ApiError(500, why, code="generation_failed")
        self.tokens[call.model, "prompt"] += len(asked.ids)
        self.tokens[call.model, "sampled"] += len(completion.ids)
        return completion_json(call, asked.ids, completion, served.renderer.decode)


def _request(served: Served, call: Call, engine: EngineConfig) -> Request:
    """The engine's record of a checked call."""
    if call.chat:
        ids = served.renderer.prompt_ids(call.prompt, call.tools)
    elif isinstance(call.prompt, str):
        # As vLLM does: a prompt in text is taken as rendered, its special tokens count.
        ids = served.tokenizer(call.prompt)["input_ids"]
    else:
        ids = call.prompt
    beyond = max(ids, default=0)
    if beyond >= served.config.vocab_size:
        why = f"this model has {served.config.vocab_size} token ids"
        raise bad_field("prompt", beyond, why)
    room = engine.max_length - len(ids)
    if not ids or room < 1:
        raise ApiError(
            400,
            f"prompt of {len(ids)} tokens: leaves no room within inference.engine."
            f"max_length={engine.max_length}: shorten it, or raise that",
            code=TOO_LONG,
        )
    stop_ids = call.stop_ids
    if not call.ignore_eos:
        stop_ids += tuple(i for i in served.renderer.stop_ids if i not in stop_ids)
    if len(stop_ids) > engine.max_stop_ids:
        why = f"more than inference.engine.max_stop_ids={engine.max_stop_ids}"
        raise bad_field("stop_token_ids", stop_ids, why)
    return Request(
        ids=tuple(ids),
        sampling=replace(
            call.sampling, max_new_tokens=min(call.max_tokens or room, room)
        ),
        stop=call.stop,
        stop_ids=stop_ids,
        seed64=call.seed,
    )


async def _body(request: HttpRequest) -> Any:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            why = f"body: more than {MAX_BODY_BYTES} bytes: send less at once"
            raise ApiError(413, why, code="body_too_large")
        chunks.append(chunk)
    try:
        return json.loads(b"".join(chunks))
    except ValueError as error:
        why = f"body: not JSON ({error}): send a JSON object"
        raise ApiError(400, why, code="invalid_json") from error


async def _unless_gone(request: HttpRequest, work: Awaitable[Any]) -> Any:
    """The result of ``work``, which is cancelled if the client goes away.

    Raises:
      ClientDisconnect: it went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error_response(error: ApiError) -> Response:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    return JSONResponse(error.json(), status_code=error.status, headers=headers)


async def _no_route(request: HttpRequest, error: Any) -> Response:
    why = f"{request.method} {request.url.path}: no such route"
    return _error_response(ApiError(error.status_code, why, code="no_route"))
