"""Works a real server for a while: does its memory grow, does it compile anything?

    python scripts/soak.py --minutes 60

Clients ask for all that there is, again and again: completions of ids and of text,
chats, streams, log-probs, several choices, searches, requests that are wrong, and
clients that go away; once a minute, `solver` gets other weights. The time begins when
all of that has been asked for; memory is measured from a third of it on. Exit code 1:
it grew by more than ``--growth``, something was compiled, or answered as it should not
be.
"""

import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401, I001 (before what only an installation has)
import httpx

import configs
from ablation.weaken import add_noise
from models.ranges import POSITIVE, Count, Share, check_fields
from rl import seeds
from scope_jax.inference import ModelSource
from scope_jax.inference.supervisor import Supervisor
from scope_jax.run import cli
from scope_jax.small_world import assets
from scope_jax.system import stopping

SAMPLES = 240
"""Measurements of a soak, evenly over its time."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of one invocation."""

    minutes: Annotated[float, POSITIVE] = 60.0
    """How long."""
    clients: Count = 16
    """Clients, each with one request at a time."""
    growth: Share = 0.02
    """Share by which the memory may have grown at the end."""
    exchange: Annotated[float, POSITIVE] = 60.0
    """Seconds between two exchanges of weights."""
    seed: Annotated[int, seeds.RANGE] = 0
    """Of the requests."""

    def __post_init__(self):
        check_fields(self)


@dataclass
class Seen:
    """What was answered, and what the server was like meanwhile.

    Attributes:
      answers: kind and status -> how often.
      wrong: what should not have been.
      waits: seconds of each answer of /health.
      memory: resident megabytes, by seconds since the start.
      compiled: programs so far.
    """

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    compiled: list[float] = field(default_factory=list)


WORDS = ["river", "guild", "Who wrote", "the", "lamp", "town of", "glass", "?", "\n"]


def request(draw: random.Random) -> tuple[str, str, dict[str, Any], int]:
    """A request: its kind, path, body, and the status that answers it."""
    text = " ".join(draw.choices(WORDS, k=draw.randint(1, 40)))
    fixed = {"model": draw.choice(["judge", "solver"]), "seed": draw.getrandbits(60)}
    fixed |= {"max_tokens": draw.randint(1, 24)}
    chat = {"messages": [{"role": "user", "content": text}]}
    ids = [draw.randrange(3, 400) for _ in range(draw.randint(1, 300))]
    kinds: list[tuple[str, str, dict[str, Any], int]] = [
        ("ids", "completions", {"prompt": ids, "ignore_eos": True}, 200),
        ("text", "completions", {"prompt": text, "stop": [".", "the"]}, 200),
        ("several", "completions", {"prompt": [text, text], "n": 2}, 200),
        (
            "log-probs",
            "completions",
            {"prompt": text, "logprobs": 3, "echo": True},
            200,
        ),
        ("stream", "completions", {"prompt": text, "stream": True}, 200),
        ("chat", "chat/completions", chat, 200),
        ("chat stream", "chat/completions", chat | {"stream": True, "n": 2}, 200),
        ("leaves", "completions", {"prompt": text, "max_tokens": 400}, 0),
        ("too long", "completions", {"prompt": [5] * 600}, 400),
        ("wrong", "completions", {"prompt": text, "temperature": -1}, 400),
        ("unknown", "completions", {"prompt": text, "model": "nobody"}, 404),
    ]
    name, path, body, status = draw.choice(kinds)
    if draw.random() < 0.2:
        found = {"queries": [text] * draw.randint(1, 20), "topk": 3}
        return "search", "/retrieve", found | {"return_scores": True}, 200
    return name, f"/v1/{path}", fixed | body, status


async def client(
    url: str, draw: random.Random, seen: Seen, *, end: float, least: int = 0
) -> None:
    """One request after the other until ``end``, ``least`` of them at any rate."""
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:
        done = 0
        while done < least or time.monotonic() < end:
            done += 1
            name, path, body, expected = request(draw)
            patience = draw.uniform(0.01, 0.2) if name == "leaves" else 600
            try:
                answer = await asyncio.wait_for(http.post(path, json=body), patience)
                status = answer.status_code
            except TimeoutError:
                status = 0
            except httpx.HTTPError as error:
                seen.wrong.append(f"{name}: {error!r}")
                continue
            seen.answers[f"{name} {status}"] += 1
            if status != expected and not (name == "leaves" and status == 200):
                seen.wrong.append(f"{name}: {status} {answer.text[:200]}")


async def warm_up(server: Supervisor, folders: Sequence[Path], seed: int) -> None:
    """Whatever is compiled when it is first asked for, and two exchanges."""
    options = {"base_url": server.url, "timeout": 600, "trust_env": False}
    async with httpx.AsyncClient(**options) as http:
        for model in ("judge", "solver"):
            for ids in (8, 30, 100, 200, 400):  # log-probs: programs by length
                body = {"model": model, "prompt": [5] * ids, "logprobs": 3}
                answer = await http.post("/v1/completions", json=body | {"echo": True})
                answer.raise_for_status()
    draws = (random.Random(f"warm {seed} {i}") for i in range(8))
    await asyncio.gather(
        *(client(server.url, d, Seen(), end=0.0, least=20) for d in draws)
    )
    now = time.monotonic()
    await exchange(server, folders, 0.1, Seen(), now + 0.2)


async def exchange(
    server: Supervisor, folders: Sequence[Path], every: float, seen: Seen, end: float
) -> None:
    """Gives ``solver`` the weights of one folder after the other."""
    shown = server.secrets.control_headers()
    options = {"base_url": server.url, "timeout": 600, "trust_env": False}
    async with httpx.AsyncClient(**options, headers=shown) as http:
        number = 0
        while (left := end - time.monotonic()) > 0:
            number += 1
            body = {"path": str(folders[number % len(folders)])}
            answer = await http.post("/v1/models/solver", json=body)
            seen.answers[f"exchange {answer.status_code}"] += 1
            if answer.status_code != 200:
                seen.wrong.append(f"exchange: {answer.text[:200]}")
            await asyncio.sleep(min(every, left))


async def watch(server: Supervisor, seen: Seen, start: float, end: float) -> None:
    """Memory, compilations and /health."""
    options = {"base_url": server.url, "timeout": 60, "trust_env": False}
    async with httpx.AsyncClient(**options) as http:
        every = (end - start) / SAMPLES
        while (now := time.monotonic()) < end:
            await http.get("/health")
            seen.waits.append(time.monotonic() - now)
            text = (await http.get("/metrics")).text
            line = next(x for x in text.splitlines() if x.startswith("scope_compiled "))
            seen.compiled.append(float(line.split()[1]))
            seen.memory.append((now - start, resident(server)))
            await asyncio.sleep(max(0.0, every - (time.monotonic() - now)))


def resident(server: Supervisor) -> float:
    """Megabytes of memory that the server's process has (Linux)."""
    assert server._process is not None
    status = Path(f"/proc/{server._process.pid}/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Per second: the median of the slopes between points half the time apart."""
    half = len(points) // 2
    if not half:  # too short a time, or too crowded a machine, to say anything
        return 0.0
    pairs = zip(points[:half], points[-half:], strict=True)
    return statistics.median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs)


def verdict(seen: Seen, options: Options) -> list[str]:
    """Prints what was seen; returns what is wrong with it."""
    print("answers:", ", ".join(f"{k} x {n}" for k, n in sorted(seen.answers.items())))
    begin = options.minutes * 60 / 3
    memory = [point for point in seen.memory if point[0] >= begin] or seen.memory[-1:]
    ordered = sorted(1000 * wait for wait in seen.waits)
    at = [ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1)]
    print("/health: p50 {:.1f}, p99 {:.1f}, longest {:.1f} ms".format(*at))
    values = [value for _, value in memory]
    grows = slope(memory)
    grown = grows * (memory[-1][0] - memory[0][0]) / values[0]
    print(
        f"memory: {values[0]:.0f} MB after a third, {values[-1]:.0f} at the end "
        f"({min(values):.0f} to {max(values):.0f}), {3600 * grows:+.1f} MB an hour, "
        f"{grown:+.2%} in this time"
    )
    more = seen.compiled[-1] - seen.compiled[0]
    print(f"compiled: {seen.compiled[0]:.0f} before, {more:.0f} since then")
    wrong = list(seen.wrong)
    if grown > options.growth:
        wrong.append(f"memory grew by {grown:.2%}, more than {options.growth:.2%}")
    if more:
        wrong.append(f"{more:.0f} programs were compiled")
    return wrong


async def work(server: Supervisor, folders: Sequence[Path], options: Options) -> Seen:
    """All of it, for as long as it takes."""
    await warm_up(server, folders, options.seed)
    seen, start = Seen(), time.monotonic()
    end = start + 60 * options.minutes
    tasks = [
        client(server.url, random.Random(f"{options.seed} {i}"), seen, end=end)
        for i in range(options.clients)
    ]
    tasks += [exchange(server, folders, options.exchange, seen, end)]
    tasks += [watch(server, seen, start, end)]
    await asyncio.gather(*tasks)
    return seen


def main(argv: Sequence[str]) -> int:
    options = cli.parse_alone(Options, argv, prog="soak.py", about=__doc__)
    stopping.end_at_once_on_signals()
    config = assets.resolve(configs.load("tiny"))
    with contextlib.ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        solvers = [run / "one", run / "other"]
        for number, folder in enumerate(solvers):
            add_noise(Path(config.model.path), folder, 0.01, seed=number)
        served = {"judge": config.model.path, "solver": str(solvers[0])}
        models = {name: ModelSource(path=path) for name, path in served.items()}
        server = Supervisor(
            config.inference, run, retrieval=config.retrieval, models=models
        )
        server.start()
        stack.callback(server.stop)
        print(f"{options.minutes:g} minutes, {options.clients} clients", flush=True)
        seen = asyncio.run(work(server, solvers, options))
        wrong = verdict(seen, options)
        if server.restarts:
            wrong.append(f"the server was started again {server.restarts} times")
    print(*wrong[:20], f"{len(wrong)} wrong", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    cli.run_main(main)
