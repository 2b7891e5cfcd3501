"""Requests that no client means, by seed: each has an answer, in time, of a right kind.

    python tests/fuzz/fuzz_requests.py URL 100000 [SEED]

against a server that serves ``judge`` and passages. Each input is drawn by its number
and the seed alone. What is sent unharmed must be answered 200; what is harmed, with 200
or a refusal, never with a 5xx.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import httpx
from fuzz_draws import broken

HALF = "\ud800"
JUNK = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**70), 0.5, -0.0, 1e308,
    5e-324, "", "a", " ", "\0", HALF, "\ufffd", "\U0001f600", "a" * 5000, "<|im_end|>",
    "{{ 1 }}", "{% for", "judge", "null", [], {}, [[]], [None], [0], ["a", 0], [HALF],
    [[1], ["a"]], {"type": "text"}, {"type": "json_object"}, {HALF: HALF}, {"a": {"b":
    [{}]}}, [1] * 500, {"role": "user", "content": "a"}, [{"role": "user", "content":
    [{"type": "text"}]}], [{"role": "tool", "content": None}], [{"role": HALF}], [-1],
    [263], [264], [2**31],
]  # fmt: skip
FIELDS = [
    "model", "prompt", "messages", "queries", "topk", "return_scores", "max_tokens",
    "temperature", "top_p", "top_k", "min_p", "stop", "seed", "n", "best_of", "echo",
    "stream", "stream_options", "logprobs", "top_logprobs", "tools", "tool_choice",
    "response_format", "logit_bias", "suffix", "stop_token_ids", "ignore_eos", "user",
    "return_token_ids", "include_stop_str_in_output", "max_completion_tokens",
    "__proto__", "metadata", "store", "frequency_penalty", HALF, "",
]  # fmt: skip
REFUSALS = {400, 404, 413, 415}


def valid(draw: random.Random, route: str) -> tuple[str, dict[str, Any]]:
    """A path, and a body that is answered there."""
    if route == "retrieve":
        words = ["river", "lamp", "Aldwick", "", "glass of the", "\u00e9", "1" * 50]
        body: dict[str, Any] = {
            "queries": draw.choices(words, k=draw.randint(0, 4)),
            "topk": draw.choice([None, 0, 1, 3, 50]),
            "return_scores": draw.choice([None, True, False]),
        }
        return "/retrieve", body
    body = {
        "model": draw.choice(["judge", "solver"]),
        "max_tokens": draw.randint(1, 3),
        "temperature": draw.choice([None, 0, 0.7, 1, 2.0]),
        "top_p": draw.choice([None, 0.5, 1]),
        "seed": draw.choice([None, -1, 2**64 - 1, 5]),
        "stop": draw.choice([None, "a", ["a", "bc"]]),
        "n": draw.choice([None, 1, 2]),
        "stream": draw.choice([None, False, True]),
        "user": draw.choice([None, "me"]),
    }
    if draw.random() < 0.5:
        prompts: list[Any] = ["Once", [1, 2], ["a", "b"], [[1], [2, 3]]]
        body["prompt"] = draw.choice(prompts)
        body["echo"] = draw.choice([None, True, False])
        body["logprobs"] = draw.choice([None, None, 0, 2])
        return "/v1/completions", body
    parts = [{"type": "text", "text": "Hi"}]
    body["messages"] = [
        {"role": draw.choice(["user", "system", "developer"]), "content": text}
        for text in draw.choices(
            ["Hi", parts, "\u00fc <|im_end|>"], k=draw.randint(1, 2)
        )
    ]
    body["logprobs"] = draw.choice([None, False, True])
    return "/v1/chat/completions", body


def harmed(draw: random.Random, value: Any, depth: int = 0) -> Any:
    """A value with some of it replaced, added or taken away."""
    if draw.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return draw.choice(JUNK)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        return [*value[:at], harmed(draw, value[at], depth + 1), *value[at + 1 :]]
    changed, name = dict(value), draw.choice([*value, *FIELDS])
    how = draw.randrange(4)
    if how == 0:
        changed.pop(name, None)
    elif how == 1 and name in changed:
        changed[name] = harmed(draw, changed[name], depth + 1)
    else:
        changed[name] = draw.choice(JUNK)
    return changed


def request(route: str, seed: int, number: int) -> tuple[str, bytes, set[int]]:
    """Path, body and the statuses that may answer it."""
    draw = random.Random(f"{route} {seed} {number}")
    path, body = valid(draw, route)
    kind = draw.random()
    if kind < 0.1:
        return path, json.dumps(body).encode(), {200}
    if kind < 0.75:
        whole: Any = body
        for _ in range(draw.randint(1, 3)):
            whole = harmed(draw, whole)
        raw = json.dumps(whole, ensure_ascii=draw.random() < 0.5)
        return path, raw.encode("utf-8", "surrogatepass"), {200} | REFUSALS
    return path, broken(draw, json.dumps(body).encode()), {200} | REFUSALS


async def fuzz(
    url: str, route: str, seed: int, numbers: range, *, at_once: int = 16
) -> tuple[Counter[int], list[str], float]:
    """Sends the inputs; returns counts by status, what was wrong, the longest wait."""
    counts: Counter[int] = Counter()
    wrong: list[str] = []
    left, worst = iter(numbers), 0.0

    async def send() -> None:
        nonlocal worst
        options = {"base_url": url, "timeout": 60, "trust_env": False}
        async with httpx.AsyncClient(**options) as http:
            for number in left:
                path, content, fine = request(route, seed, number)
                start = time.monotonic()
                try:
                    answer = await http.post(
                        path,
                        content=content,
                        headers={"Content-Type": "application/json"},
                    )
                except httpx.HTTPError as error:
                    wrong.append(f"{number}: {error!r}")
                    continue
                worst = max(worst, time.monotonic() - start)
                counts[answer.status_code] += 1
                if answer.status_code not in fine or "server_error" in answer.text:
                    wrong.append(f"{number}: {answer.status_code} {answer.text[:200]}")

    await asyncio.gather(*(send() for _ in range(at_once)))
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{url}/health", timeout=10)).status_code == 200
    return counts, wrong, worst


def main(url: str, count: str, seed: str = "0") -> int:
    found = 0
    for route in ("retrieve", "v1"):
        start = time.monotonic()
        work = fuzz(url, route, int(seed), range(int(count)))
        counts, wrong, worst = asyncio.run(work)
        seconds = time.monotonic() - start
        print(f"/{route}: {dict(counts)} in {seconds:.0f} s, longest {worst:.2f} s")
        print(*wrong[:10], f"{len(wrong)} wrong", sep="\n", flush=True)
        found += len(wrong)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
