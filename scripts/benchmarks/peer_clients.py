"""Clients of a server, in a process of their own: many, one that asks, one that harms.

Talks as ``harness.Peer`` expects. Its settings name a ``task``:

    clients   each turn sends ``count`` completions at once and waits for all
    health    asks /health every ``every`` seconds; a turn returns how long that took
    hostile   sends what is as long and deep as may be; a turn returns the statuses

The last two work all the time, and a turn tells what there was since the last one.
"""

import asyncio
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

JSON = {"Content-Type": "application/json"}


def prompts(turn: int, count: int, length: int, vocab: int) -> list[list[int]]:
    """Different in every turn, so that nothing of them is in a cache."""
    source = random.Random(f"clients {turn}")
    return [[source.randrange(1, vocab) for _ in range(length)] for _ in range(count)]


def clients(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """One turn: all completions; seconds, and the CPU time of this process."""
    import httpx

    turn = 0

    async def all_at_once(bodies: Sequence[bytes]) -> list[int]:
        limits = httpx.Limits(max_connections=None)
        options = {"base_url": settings["url"], "timeout": 3600, "trust_env": False}
        async with httpx.AsyncClient(**options, limits=limits) as http:

            async def one(body: bytes) -> int:
                answer = await http.post("/v1/completions", content=body, headers=JSON)
                return answer.raise_for_status().json()["usage"]["completion_tokens"]

            return await asyncio.gather(*map(one, bodies))

    def one_turn() -> dict[str, Any]:
        nonlocal turn
        asked = prompts(turn, *(settings[n] for n in ("count", "length", "vocab")))
        fixed = {"model": "judge", "max_tokens": settings["new"], "ignore_eos": True}
        bodies = [
            json.dumps(fixed | {"prompt": ids, "seed": seed}).encode()
            for seed, ids in enumerate(asked)
        ]
        turn += 1
        start, cpu = time.perf_counter(), time.process_time()
        tokens = sum(asyncio.run(all_at_once(bodies)))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        return {"seconds": seconds, "cpu": cpu, "tokens": tokens}

    return one_turn


def health(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Seconds of every answer of /health since the last turn, in order."""
    waits: list[float] = []

    def ask(http: http.client.HTTPConnection) -> None:
        start = time.perf_counter()
        http.request("GET", "/health")
        http.getresponse().read()
        waits.append(time.perf_counter() - start)
        time.sleep(settings["every"])

    _for_ever(settings, ask)

    def turn() -> dict[str, Any]:
        found, waits[:] = list(waits), []
        return {"seconds": sum(found), "waits": found}

    return turn


def hostile_bodies(limit: int, values: int) -> dict[str, tuple[str, bytes]]:
    """Path and body of what costs a server most.

    Args:
      limit: bytes of a body that the server still takes.
      values: values of a body that it still takes.
    """

    def full(start: str, piece: str, end: str, most: int = values - 9) -> bytes:
        count = (limit - len(start) - len(end)) // len(piece.encode())
        count = min(count, most // max(piece.count(","), 1)) if most else count
        return (start + (piece * count).rstrip(",") + end).encode()

    asked, chat = '{"model": "judge", "prompt": ', '{"model": "judge", "messages": '
    user, search = '[{"role": "user", "content": ', '{"queries": ['
    long = {
        "ids": full(asked + "[", "1,", "]}"),
        "a million ids": full(asked + "[", "1,", "]}", most=0),
        "prompts of one id": full(asked + "[", "[1],", "]}"),
        "text": full(asked + '"', "ab ", '"}', most=0),
        "escapes": full(asked + '"', "\\u0061", '"}', most=0),
        "deep": full(asked, "[", "", most=0),
        "fields": full('{"model": "judge"', ', "a": 1', "}"),
        "broken at the end": full(asked + "[", "1,", ""),
    }
    talks = {
        "messages": full(chat + "[", '{"role":"user","content":""},', "]}"),
        "parts": full(chat + user + "[", '{"type":"text"},', "]}]}"),
        "a chat's text": full(chat + user + '"', "ab ", '"}]}', most=0),
        "tools": full(chat + '[], "tools": [', "{},", "]}"),
    }
    found = {name: ("/v1/completions", body) for name, body in long.items()}
    found |= {name: ("/v1/chat/completions", body) for name, body in talks.items()}
    found["queries"] = "/retrieve", full(search, '"a b c",', "]}")
    found["one query"] = "/retrieve", full(search + '"', "a b ", '"]}', most=0)
    found["too long a body"] = "/v1/completions", long["text"] * 3
    return found


def hostile(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Statuses of the answers since the last turn, by kind of body."""
    bodies = hostile_bodies(settings["bytes"], settings["values"])
    names = settings.get("kinds") or list(bodies)
    statuses: Counter[str] = Counter()
    number = 0

    def send(http: http.client.HTTPConnection) -> None:
        nonlocal number
        name = names[number % len(names)]
        path, body = bodies[name]
        number += 1
        http.request("POST", path, body, JSON)
        answer = http.getresponse()
        answer.read()
        statuses[f"{name}: {answer.status}"] += 1

    _for_ever(settings, send)

    def turn() -> dict[str, Any]:
        found = dict(statuses)
        statuses.clear()
        return {"seconds": 0.0, "statuses": found}

    return turn


def _for_ever(
    settings: dict[str, Any], work: Callable[[http.client.HTTPConnection], None]
) -> None:
    """Does ``work`` again and again on a connection, in a thread."""
    parts = urlsplit(settings["url"])

    def run() -> None:
        while True:
            connection = http.client.HTTPConnection(parts.hostname, parts.port)
            try:
                while True:
                    work(connection)
            except (OSError, http.client.HTTPException):
                connection.close()  # the server closes one that sent too much
                time.sleep(0.01)

    threading.Thread(target=run, daemon=True).start()


def main(settings: dict[str, Any]) -> None:
    tasks = {"clients": clients, "health": health, "hostile": hostile}
    turn = tasks[settings["task"]](settings)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
