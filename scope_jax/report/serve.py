"""The page from a server on this machine, for runs too large for one file.

It answers GET on the loopback address alone, and only to requests that name it as
their host: a page elsewhere, whose name was made to point here, gets nothing.
"""

import contextlib
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from models.errors import UserError
from scope_jax.report import page
from scope_jax.report.index import Index, check
from scope_jax.report.rows import FIELDS

HOST = "127.0.0.1"
MOST_PORT = 65535
ROWS = 4000
"""Rows of one answer."""
CHANGED = "the run has changed since this page was opened: reload it"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def app(run_dirs: Sequence[Path]) -> Starlette:
    """The page, and what it asks for: rows, a rollout, a search.

    Raises:
      UserError: a folder is no run's, or there is no place for an index.
    """
    check()
    page.describe(run_dirs)
    index = Index(run_dirs)
    index.refresh()

    def shell(_: Request) -> Response:
        index.refresh()  # a run that goes on has more by now
        about = page.describe(run_dirs)
        about["rollouts"] = {"fields": ["run", *FIELDS], "served": index.generation}
        return HTMLResponse(page.shell(about, served=True), headers=HEADERS)

    def current(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def checked(request: Request) -> Response:
            if request.query_params.get("of") != str(index.generation):
                return PlainTextResponse(CHANGED, 409, HEADERS)
            return answer(request)

        return checked

    def rows(request: Request) -> Response:
        first = _number(request, "from")
        complete = index.complete  # before the rows are counted
        found = index.rows[first : first + ROWS]
        return _json(
            {
                "rows": found,
                "complete": complete and first + len(found) >= len(index.rows),
                "problems": index.problems,
            }
        )

    def rollout(request: Request) -> Response:
        found = index.record(_number(request, "row"))
        if found is None:
            return PlainTextResponse("there is no such rollout", 404, HEADERS)
        return _json(found)

    def search(request: Request) -> Response:
        return _json(index.search(request.query_params.get("q", "")))

    return Starlette(
        routes=[
            _get("/", shell),
            _get("/rows", current(rows)),
            _get("/rollout", current(rollout)),
            _get("/search", current(search)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(GZipMiddleware, minimum_size=2000, compresslevel=3),
        ],
    )


def serve(
    run_dirs: Sequence[Path], port: int, announce: Callable[[str], None] = print
) -> None:
    """Answers until it is interrupted.

    Args:
      port: 0 takes any that is free.
      announce: is given the address.

    Raises:
      UserError: the port is in use, or none; else as ``app``.
    """
    if not 0 <= port <= MOST_PORT:
        raise UserError(f"--port {port}: name one up to {MOST_PORT}, or 0 for any")
    served = app(run_dirs)
    with contextlib.closing(socket.socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"--port {port}: {error.strerror}: name another, or 0 for any"
            ) from error
        announce(f"http://{HOST}:{listening.getsockname()[1]}/ (Ctrl-C ends it)")
        config = uvicorn.Config(served, log_level="warning", access_log=False)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _get(path: str, answer: Callable[[Request], Response]) -> Route:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(answer, request)

    return Route(path, endpoint, methods=["GET"])


def _json(value: Any) -> Response:
    return Response(page.inert(value), media_type="application/json", headers=HEADERS)


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
