"""``/openapi.json``: what the routes take and answer, from the models that check it."""

from typing import Any

from pydantic.json_schema import models_json_schema

from scope_jax.inference.schemas import (
    BatchBody,
    ChatBody,
    CompletionBody,
    ModelBody,
    SearchBody,
)

BODIES = (SearchBody, CompletionBody, BatchBody, ChatBody, ModelBody)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "server_error"]},
                "code": {"type": "string"},
                "param": {},
            },
        }
    },
}
# Status -> when it is answered. Those of every route, of one with a body, of sampling.
_ALWAYS = {401: "No key, or a wrong one", 403: "Wrong Host, Origin or control secret"}
_BODY = {
    400: "A bad field",
    408: "The body came too slowly",
    413: "The body is too long",
    415: "Not JSON",
}
_SAMPLE = {404: "No such model", 429: "Too much is waiting"}
_SEARCH = {404: "No passages", 503: "Too much is waiting"}
_LOAD = {404: "No such model", 500: "The weights could not be loaded"}


def document(*, key: bool) -> dict[str, Any]:
    """The description of the server, in OpenAPI 3.1.

    Args:
      key: whether the server asks for a key.
    """
    _, schemas = models_json_schema(
        [(body, "validation") for body in BODIES],
        ref_template="#/components/schemas/{model}",
    )
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
    }
    model = {"parameters": [name]}
    control = {"security": [{"control": []} | ({"key": []} if key else {})]}
    paths = {
        "/retrieve": {
            "post": _route("Passages of queries", _BODY | _SEARCH, SearchBody)
        },
        "/v1/completions": {
            "post": _sampling("Completions of prompts", CompletionBody)
        },
        "/v1/completions/batch": {"post": _batch()},
        "/v1/chat/completions": {
            "post": _sampling("The next message of a conversation", ChatBody)
        },
        "/v1/models": {"get": _route("Models that are served", {})},
        "/v1/models/{name}": model
        | {
            "get": _route("A model that is served", {404: "No such model"}),
            "post": _route("Serve a folder's weights", _BODY | _LOAD, ModelBody)
            | control,
            "delete": _route("End serving a model", _LOAD) | control,
        },
        "/health": {"get": _route("The process answers", {}) | {"security": []}},
        "/ready": {
            "get": _route("All is loaded", {503: "What is still missing"}, errors=False)
        },
        "/stats": {"get": _route("Work of the engines", {})},
        "/metrics": {"get": _route("Counters", {}, kind="text/plain")},
        "/openapi.json": {"get": _route("This description", {})},
    }
    header = {"type": "apiKey", "in": "header", "name": "X-Scope-Control"}
    schemes = {"control": header} | (
        {"key": {"type": "http", "scheme": "bearer"}} if key else {}
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "scope_jax inference server", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"] | {"Error": _ERROR},
            "securitySchemes": schemes,
        },
        "security": [{"key": []}] if key else [],
    }


def _batch() -> dict[str, Any]:
    summary = "Completions of many requests, one line for each when it is ready"
    return _route(summary, _BODY, BatchBody, kind="application/x-ndjson")


def _sampling(summary: str, body: type) -> dict[str, Any]:
    route = _route(
        summary, _BODY | _SAMPLE | {500: "The model's logits are broken"}, body
    )
    route["responses"]["200"]["content"]["text/event-stream"] = {
        "schema": {"type": "string"}
    }
    return route


def _route(
    summary: str,
    statuses: dict[int, str],
    body: type | None = None,
    *,
    kind: str = "application/json",
    errors: bool = True,
) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    free = {"application/json": {"schema": {"type": "object"}}}
    schema = {"type": "object" if kind == "application/json" else "string"}
    answers: dict[str, Any] = {
        "200": {"description": "Done", "content": {kind: {"schema": schema}}}
    }
    for status, why in sorted((_ALWAYS | statuses).items()):
        shape = error if errors or status in _ALWAYS else free
        answers[str(status)] = {"description": why, "content": shape}
    route: dict[str, Any] = {"summary": summary, "responses": answers}
    if body is not None:
        ref = {"$ref": f"#/components/schemas/{body.__name__}"}
        route["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": ref}},
        }
    return route
