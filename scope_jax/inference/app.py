"""The server's routes: check a request, hand it to engine or searcher, answer."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rl.engine.counters import totals
from rl.engine.engine import Engine
from rl.engine.thread import EngineClosed
from scope_jax.inference import batches, encoding
from scope_jax.inference.access import NO_SECRETS, Guard, Secrets
from scope_jax.inference.batcher import SearchBatcher
from scope_jax.inference.completions import Sampling
from scope_jax.inference.config import InferenceConfig, ModelSource
from scope_jax.inference.errors import (
    ApiError,
    bad_field,
    error_response,
    internal,
    no_route,
    refusal,
)
from scope_jax.inference.metrics import Metrics, measured
from scope_jax.inference.models import ModelTable
from scope_jax.inference.openapi import document
from scope_jax.inference.protocol import Choice, search_json
from scope_jax.inference.requests import read_body, unless_gone
from scope_jax.inference.schemas import BatchBody, ModelBody
from scope_jax.inference.served import Served
from scope_jax.inference.streaming import stream
from scope_jax.inference.validation import (
    Call,
    parse_chat,
    parse_completion,
    parse_search,
)

log = logging.getLogger(__name__)

# What nginx answers when the client has closed its connection; nobody reads it.
CLIENT_GONE = 499

Endpoint = Callable[[HttpRequest], Awaitable[Response]]
T = TypeVar("T")


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

    def __init__(
        self,
        config: InferenceConfig,
        *,
        default_topk: int = 3,
        given: Secrets = NO_SECRETS,
        named: frozenset[str] = frozenset(),
    ):
        """Routes without models yet.

        Args:
          default_topk: passages per query, unless a request says.
          given: the server's secrets.
          named: model folders that may be loaded besides those below the roots.
        """
        self.config = config
        self.default_topk = default_topk
        self.named = named
        self.models: ModelTable | None = None
        self.models_started = asyncio.Event()
        self.search: SearchBatcher | None = None
        self.search_started = asyncio.Event()
        self.missing: dict[str, str] = {}
        self.on_fatal: Callable[[Exception], None] = lambda error: None
        self.metrics = Metrics()
        self._guard = Guard(config.host, names=config.names, given=given)
        self._openapi = document(key=bool(given.api))

    def starlette(self, lifespan: Any = None) -> Starlette:
        """The ASGI application."""
        routes = [
            ("/retrieve", "POST", self.retrieve),
            ("/v1/completions", "POST", self.completions),
            ("/v1/completions/batch", "POST", self.batch),
            ("/v1/chat/completions", "POST", self.chat),
            ("/v1/models", "GET", self.list_models),
            ("/v1/models/{name:path}", "GET", self.show_model),
            ("/v1/models/{name:path}", "POST", self.load_model),
            ("/v1/models/{name:path}", "DELETE", self.unload_model),
            ("/health", "GET", self.health),
            ("/ready", "GET", self.ready),
            ("/stats", "GET", self.stats),
            ("/metrics", "GET", self.show_metrics),
            ("/openapi.json", "GET", self.openapi),
        ]
        return Starlette(
            routes=[
                Route(path, self._endpoint(path, handler), methods=[method])
                for path, method, handler in routes
            ],
            lifespan=lifespan,
            exception_handlers={404: no_route, 405: no_route},
        )

    def _endpoint(self, path: str, handler: Endpoint) -> Endpoint:
        """Adds what all routes need: who may ask, errors as JSON, counts and times."""
        control = handler in (self.load_model, self.unload_model)
        anyone = handler == self.health
        path = path.replace(":path", "")

        async def endpoint(request: HttpRequest) -> Response:
            start = time.monotonic()
            try:
                self._guard.check(request, control=control, anyone=anyone)
                response = await handler(request)
            except ClientDisconnect:
                response = Response(status_code=CLIENT_GONE)
            except Exception as error:
                response = error_response(refusal(path, error))
            seconds = time.monotonic() - start
            self.metrics.answered(path, response.status_code, seconds)
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
        parse = partial(parse_search, default_topk=self.default_topk)
        queries, topk, scores = await self._body(request, parse)
        found = await unless_gone(request, self._search(queries, topk))
        return await encoding.response(search_json(found, scores))

    async def completions(self, request: HttpRequest) -> Response:
        """OpenAI's completions."""
        return await self._sample(request, await self._body(request, parse_completion))

    async def batch(self, request: HttpRequest) -> Response:
        """OpenAI's completions, many at once: see ``batches``."""
        asked = await self._body(request, BatchBody.checked)
        lines = batches.lines(asked.requests, self._one_of_batch)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def _one_of_batch(self, body: Any) -> tuple[int, Any]:
        try:
            call = parse_completion(body)
            if call.stream:
                raise bad_field("stream", True, "a batch answers each in one piece")
            return 200, await self._whole(call)
        except Exception as error:
            refused = refusal("/v1/completions/batch", error)
            return refused.status, refused.json()

    async def chat(self, request: HttpRequest) -> Response:
        """OpenAI's chat completions, with the model's own template."""
        return await self._sample(request, await self._body(request, parse_chat))

    async def list_models(self, request: HttpRequest) -> Response:
        """Names and content hashes of the weights that are served."""
        served = await (await self._models()).all()
        data = [self._model_json(name, one) for name, one in sorted(served.items())]
        return JSONResponse({"object": "list", "data": data})

    async def show_model(self, request: HttpRequest) -> Response:
        """One entry of `list_models`."""
        name = request.path_params["name"]
        served = await (await self._models()).get(name)
        return JSONResponse(self._model_json(name, served))

    def _model_json(self, name: str, served: Served) -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": served.created}
        model |= {"owned_by": "scope_jax", "hash": served.source.hash}
        return model | {"max_model_len": self.config.engine.max_length}

    async def load_model(self, request: HttpRequest) -> Response:
        """Loads weights under a name."""
        body = await self._body(request, ModelBody.checked)
        name = request.path_params["name"]
        source = ModelSource(path=body.path, hash=body.hash or "")
        models = await self._models()
        await asyncio.to_thread(models.check_folder, source.path, self.named)
        # Shielded: weights must not stay half exchanged because a client went away.
        source = await asyncio.shield(models.load(name, source))
        return JSONResponse({"id": name, "hash": source.hash})

    async def unload_model(self, request: HttpRequest) -> Response:
        """Ends serving a name."""
        name = request.path_params["name"]
        models = await self._models()
        await asyncio.shield(models.unload(name))
        return JSONResponse({"id": name, "deleted": True})

    async def stats(self, request: HttpRequest) -> Response:
        """What each model's engine has counted since its start, and the engine's id."""
        counted = await self._of_engines(totals)
        engines = {name: {"id": one.id} | counts for name, one, counts in counted}
        return JSONResponse({"engines": engines})

    async def _of_engines(
        self, count: Callable[[Engine], dict[str, float]]
    ) -> list[tuple[str, Served, dict[str, float]]]:
        """What each name's engine has counted."""
        found = list(self.models.names.items() if self.models is not None else ())
        with contextlib.ExitStack() as held:
            for _, served in found:
                held.enter_context(served.in_use())
            # All at once: each may have to wait for its engine.
            counted = await asyncio.gather(*(one.call(count) for _, one in found))
        return [(*one, counts) for one, counts in zip(found, counted, strict=True)]

    async def show_metrics(self, request: HttpRequest) -> Response:
        """Counters in Prometheus's text format."""
        counted = await self._of_engines(lambda engine: engine.stats())
        engines = {name: counts for name, _, counts in counted}
        search = {}
        if self.search is not None:
            search = {"queries": self.search.queries, "calls": self.search.calls}
        text = self.metrics.text() + measured(engines, search)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def openapi(self, request: HttpRequest) -> Response:
        """The description of these routes, in OpenAPI."""
        return JSONResponse(self._openapi)

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
        if not call.stream:
            return await encoding.response(
                await unless_gone(request, self._whole(call))
            )
        with contextlib.ExitStack() as held:
            self._take_place(call, held)
            sampling = await unless_gone(request, self._prepare(call, held))
            # Kept until the stream's end, which comes after this function's.
            events = self._events(sampling, held.pop_all())
        return encoding.stream(events)

    async def _whole(self, call: Call) -> dict[str, Any]:
        """The answer to a call, in one piece."""
        with contextlib.ExitStack() as held:
            self._take_place(call, held)
            sampling = await self._prepare(call, held)
            answer, choices = await self._watched(sampling.answer())
        self._count(sampling, choices)
        return answer

    def _take_place(self, call: Call, held: contextlib.ExitStack) -> None:
        """Counts the call's samples as in flight until ``held`` ends."""
        samples, now = len(call.prompts) * call.best_of, self.metrics.in_flight
        if samples > self.config.max_queue:
            why = f"{samples} completions at once are more than inference.max_queue"
            raise ApiError(400, f"{why}={self.config.max_queue}", code="invalid_value")
        if now + samples > self.config.max_queue:
            why = f"{now} completions are in progress: try again"
            raise ApiError(429, why, code="queue_full", retry_after=1)

        def leave() -> None:
            self.metrics.in_flight -= samples

        self.metrics.in_flight += samples
        held.callback(leave)

    async def _prepare(self, call: Call, held: contextlib.ExitStack) -> Sampling:
        served = await (await self._models()).get(call.model)
        held.enter_context(served.in_use())
        return await Sampling.prepare(call, served, self.config.engine)

    def _count(self, sampling: Sampling, choices: list[Choice]) -> None:
        sampled = sum(len(choice.completion.ids) for choice in choices)
        self.metrics.sampled(sampling.call.model, sampling.prompt_tokens, sampled)

    async def _watched(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except EngineClosed as error:
            why = "the model's weights were exchanged meanwhile: try again"
            raise ApiError(503, why, code="model_gone", retry_after=1) from error
        except RuntimeError as error:
            # What is wrong with a request ends that request; this ended the engine.
            self.on_fatal(error)
            raise

    async def _events(
        self, sampling: Sampling, held: contextlib.ExitStack
    ) -> AsyncIterator[bytes]:
        """A stream's events; what fails on the way is the last but one of them."""
        with held:
            pieces = stream(sampling, lambda choices: self._count(sampling, choices))
            try:
                while True:
                    try:
                        yield await encoding.event(await self._watched(anext(pieces)))
                    except StopAsyncIteration:
                        break
            except ApiError as error:
                yield await encoding.event(error.json())
            except Exception as error:
                log.exception("stream failed")
                yield await encoding.event(internal(error).json())
            finally:
                await pieces.aclose()
            yield b"data: [DONE]\n\n"

    async def _body(self, request: HttpRequest, parse: Callable[[Any], T]) -> T:
        config = self.config
        limits = {"limit": config.body_bytes, "values": config.body_values}
        return await read_body(request, parse, **limits, seconds=config.client_timeout)
