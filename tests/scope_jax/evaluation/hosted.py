"""A chat server that fails in every way, by what it is asked and never by when.

A request's own digest decides how often it fails, and how, before it is answered; the
answer depends on the messages alone. So an evaluation that asks in another order, or
was killed in between, gets the same.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAILURES = ("429", "500", "null", "cut", "slow", "503", "no choices", "error as 200")
SLOW = 1.0
"""Seconds that a slow answer takes."""


@dataclass
class Hosted:
    """What the server is told to do, and what it was asked.

    Attributes:
      reply: messages -> content.
      fails: digest of a request -> failures in turn, before it is answered; one that
        ends with ``"always"`` never is.
      slow: seconds that a slow answer takes.
    """

    reply: Callable[[list[dict[str, str]]], str]
    fails: Callable[[int], tuple[str, ...]] = lambda digest: ()
    slow: float = SLOW
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    asked: Counter = field(default_factory=Counter)
    working: int = 0
    most_working: int = 0


def digest_of(body: dict[str, Any]) -> int:
    text = json.dumps(body["messages"], sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@contextlib.contextmanager
def serving(hosted: Hosted) -> Iterator[Hosted]:
    """The server, at ``hosted.url``."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            size = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(size))
            with lock:
                hosted.bodies.append(body)
                hosted.keys.append(self.headers.get("Authorization", ""))
                digest = digest_of(body)
                number = hosted.asked[digest]
                hosted.asked[digest] += 1
                hosted.working += 1
                hosted.most_working = max(hosted.most_working, hosted.working)
            try:
                self._act(body, digest, number)
            finally:
                with lock:
                    hosted.working -= 1

        def _act(self, body, digest, number):
            fails = hosted.fails(digest)
            if fails and fails[-1] == "always":
                how = fails[min(number, len(fails) - 2)]
            else:
                how = fails[number] if number < len(fails) else ""
            answer = {
                "choices": [{"message": {"content": hosted.reply(body["messages"])}}],
                "usage": {
                    "prompt_tokens": sum(len(m["content"]) for m in body["messages"]),
                    "completion_tokens": 7,
                    "prompt_tokens_details": {"cached_tokens": 3},
                },
            }
            if how.isdigit():
                error = {"error": {"message": f"as scripted: {how}"}}
                self._send(int(how), json.dumps(error))
                return
            if how == "null":
                answer["choices"][0]["message"]["content"] = None
            if how == "no choices":
                answer["choices"] = []
            if how == "error as 200":
                answer = {"error": {"message": "overloaded"}}
            if how == "slow":
                time.sleep(hosted.slow)
            text = json.dumps(answer)
            self._send(200, text[: len(text) // 2] if how == "cut" else text)

        def _send(self, status, text):
            data = text.encode()
            with contextlib.suppress(OSError):  # the client has left
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if status == 429:
                    self.send_header("Retry-After", "0.01")
                self.end_headers()
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hosted.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hosted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
