"""The inference process over HTTP: wire formats, determinism, weights in and out."""

import asyncio
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import inference_world as world
import numpy as np
import pytest

from models import hf
from rl.engine.counters import Meter
from rl.records import Request, SamplingParams
from scope_jax.inference import ServerSettings
from scope_jax.inference.client import RequestRefused
from scope_jax.system import settings as settings_io

ROOT = Path(__file__).parents[3]


def ask(text: str, seed: int = 0, tokens: int = 8, **sampling) -> Request:
    ids = world.byte_tokenizer()(text)["input_ids"]
    params = SamplingParams(max_new_tokens=tokens, **sampling)
    return Request(ids=tuple(ids), sampling=params, seed64=seed)


def test_health_ready_and_models(http):
    assert http.get("/health").json() == {"status": "ok"}
    ready = http.get("/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "missing": {}})
    models = http.get("/v1/models").json()["data"]
    assert [m["id"] for m in models] == ["judge", "solver"]
    assert models[0]["hash"] == models[1]["hash"]


def test_a_model_of_nan_is_an_error_of_its_own(folder, http):
    broken = folder / "broken"
    config, params = hf.load(folder / "base")
    params["embed"] = params["embed"] * np.nan
    hf.save(broken, config, params, tokenizer=world.byte_tokenizer())
    asked = {"model": "broken", "prompt": "a"}
    http.post("/v1/models/broken", json={"path": str(broken), "hash": ""}, timeout=600)
    answer = http.post("/v1/completions", json=asked)
    http.delete("/v1/models/broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (
        500,
        "non_finite_logits",
    )


def test_retrieve_speaks_search_r1(http):
    body = {"queries": ["lamps in chapters", "river"], "return_scores": True}
    result = http.post("/retrieve", json=body | {"topk": 2}).json()["result"]
    assert [len(found) for found in result] == [2, 2]
    assert set(result[0][0]) == {"document", "score"}
    assert result[0][0]["score"] >= result[0][1]["score"]
    title, text = world.PASSAGES[3]
    assert result[0][0]["document"] == {"id": "3", "contents": f"{title}\n{text}"}
    bare = http.post("/retrieve", json={"queries": ["river"], "topk": None}).json()
    assert len(bare["result"][0]) == 3
    assert set(bare["result"][0][0]) == {"id", "contents"}


def test_completion_in_openai_format(http):
    body = {"model": "judge", "prompt": "Once", "max_tokens": 5, "temperature": 0}
    answer = http.post("/v1/completions", json=body).json()
    choice = answer["choices"][0]
    assert answer["object"] == "text_completion"
    assert answer["usage"]["prompt_tokens"] == 4
    assert choice["finish_reason"] in ("stop", "length")
    assert "token_ids" not in choice and choice["logprobs"] is None
    ids = world.byte_tokenizer()("Once")["input_ids"]
    more = {"prompt": ids, "logprobs": 1, "return_token_ids": True, "ignore_eos": True}
    again = http.post("/v1/completions", json=body | more).json()["choices"][0]
    assert again["prompt_token_ids"] == ids
    assert len(again["token_ids"]) == len(again["logprobs"]["token_logprobs"]) == 5
    assert all(p <= 0 for p in again["logprobs"]["token_logprobs"])
    if choice["finish_reason"] == "length":
        assert again["text"] == choice["text"]


def test_chat_completion_renders_the_models_template(http):
    message = {"role": "user", "content": "Hello <|im_end|>"}
    body = {"model": "judge", "messages": [message], "max_tokens": 4, "seed": 2**64 - 1}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    # Control tokens that a user writes stay text: 10 bytes, not one id.
    rendered = len("user\nHello <|im_end|>") + len("\nassistant\n") + 3
    assert answer["usage"]["prompt_tokens"] == rendered


def test_a_template_that_prints_the_date_is_told_the_servers_day(folder, http):
    config, params = hf.load(folder / "base")
    tokenizer = world.byte_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }}\n" + world.CHATML
    hf.save(folder / "dated", config, params, tokenizer=tokenizer)
    loaded = {"path": str(folder / "dated")}
    assert http.post("/v1/models/dated", json=loaded, timeout=600).status_code == 200
    asked = {"model": "dated", "messages": [{"role": "user", "content": "a"}]}
    before = datetime.date.today()
    answer = http.post(
        "/v1/chat/completions",
        json=asked | {"max_tokens": 1, "return_token_ids": True},
    )
    after = datetime.date.today()
    http.delete("/v1/models/dated")
    ids = answer.json()["choices"][0]["prompt_token_ids"]
    day = datetime.date.fromisoformat(tokenizer.decode(ids)[:10])
    assert before <= day <= after


def test_stop_string_is_cut_unless_asked_for(server, http):
    async def sample():
        async with world.Client(
            world.inference_config(), server.url, server.secrets
        ) as client:
            return await client.complete("judge", ask("abc", seed=3, tokens=24))

    whole = asyncio.run(sample())
    printable = [c for c in whole.text[1:] if c.isascii() and c.isprintable()]
    stop = printable[0]
    body = {
        "model": "judge",
        "prompt": list(ask("abc").ids),
        "max_tokens": 24,
        "seed": 3,
        "stop": stop,
        "ignore_eos": True,
    }
    cut = http.post("/v1/completions", json=body).json()["choices"][0]
    assert (cut["finish_reason"], cut["stop_reason"]) == ("stop", stop)
    assert cut["text"] == whole.text[: whole.text.index(stop)]
    body["include_stop_str_in_output"] = True
    kept = http.post("/v1/completions", json=body).json()["choices"][0]
    assert kept["text"] == cut["text"] + stop


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/completions", b"{", 400, "not JSON"),
        ("/v1/completions", [], 400, "JSON object"),
        ("/v1/completions", {"prompt": "a"}, 400, "model"),
        ("/v1/completions", {"model": "judge"}, 400, "prompt"),
        ("/v1/completions", {"model": "judge", "prompt": "a", "n": 0}, 400, "n: 0"),
        ("/v1/completions", {"model": "judge", "prompt": "a", "tmp": 1}, 400, "tmp"),
        ("/v1/completions", {"model": "judge", "prompt": [-1]}, 400, "prompt"),
        ("/v1/completions", {"model": "judge", "prompt": [9999]}, 400, "9999"),
        ("/v1/completions", {"model": "x", "prompt": "a"}, 404, "judge, solver"),
        ("/v1/chat/completions", {"model": "judge"}, 400, "messages"),
        ("/retrieve", {"queries": "a"}, 400, "queries"),
        ("/retrieve", {"queries": ["a"], "topk": -1}, 400, "topk"),
        ("/v1/models/solver", {"path": "nowhere/at/all"}, 400, "path"),
        ("/v1/nothing", {}, 404, "no such route"),
    ],
)
def test_bad_requests_are_one_clear_line(http, path, body, status, says):
    content = body if isinstance(body, bytes) else json.dumps(body)
    kind = {"Content-Type": "application/json"}
    answer = http.post(path, content=content, headers=kind)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert says in error["message"] and "\n" not in error["message"]
    assert error["type"] and error["code"]


def test_too_long_a_prompt_names_the_limit(http):
    body = {"model": "judge", "prompt": [1] * 128, "max_tokens": 9}
    answer = http.post("/v1/completions", json=body)
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "max_length=128" in answer.json()["error"]["message"]


def test_same_seed_gives_the_same_tokens_whatever_the_company(server):
    async def sample():
        async with world.Client(
            world.inference_config(), server.url, server.secrets
        ) as client:
            asked = [ask("abc" * (i % 3 + 1), seed=i, tokens=12) for i in range(12)]
            client.more = {"logprobs": 1}
            alone = [await client.complete("judge", r) for r in asked]
            crowd = await asyncio.gather(
                *(client.complete("judge", r) for r in reversed(asked))
            )
            return alone, crowd[::-1]

    alone, crowd = asyncio.run(sample())
    for one, other in zip(alone, crowd, strict=True):
        assert (one.ids, one.text, one.logprobs) == (
            other.ids,
            other.text,
            other.logprobs,
        )
    assert len({c.ids for c in alone}) > 1
    assert all(len(c.logprobs) == len(c.ids) > 0 for c in alone)


def test_weights_are_exchanged_by_name_and_hash(server, folder):
    async def play():
        async with world.Client(
            world.inference_config(), server.url, server.secrets
        ) as client:
            base = (await client.served())["judge"]
            request = ask("same prompt", seed=5, tokens=16)
            judge = await client.complete("judge", request)
            assert await client.complete("solver", request) == judge
            with pytest.raises(RequestRefused, match="content hash"):
                await client.load_model("solver", str(folder / "trained"), base)
            assert await client.complete("solver", request) == judge
            trained = await client.load_model("solver", str(folder / "trained"))
            assert trained != base
            assert (await client.served())["solver"] == trained
            assert await client.complete("judge", request) == judge
            changed = await client.complete("solver", request)
            assert changed.ids != judge.ids
            # The solver's engine is its own now: its weights alone are exchanged.
            world.write_model(folder / "again", seed=2)
            await client.load_model("solver", str(folder / "again"))
            third = await client.complete("solver", request)
            assert third.ids not in (changed.ids, judge.ids)
            await client.load_model("solver", str(folder / "base"), base)
            assert await client.complete("solver", request) == judge
            await client.load_model("other", str(folder / "trained"), trained)
            assert await client.complete("other", request) == changed
            for status in (200, 404):
                gone = httpx.delete(
                    f"{server.url}/v1/models/other",
                    trust_env=False,
                    headers=server.secrets.control_headers(),
                )
                assert gone.status_code == status
            with pytest.raises(RequestRefused, match="not served"):
                await client.complete("other", request)

    asyncio.run(play())


def test_weights_are_exchanged_under_requests_that_ask_the_engine_again(
    server, folder, http
):
    """Log-probs of alternatives, and JSON, take several calls of one engine."""
    again = {"prompt": "abc", "logprobs": 2, "echo": True, "max_tokens": 4}
    chat = [{"role": "user", "content": "json"}]
    ask_json = {"messages": chat, "response_format": {"type": "json_object"}}
    done, found, pid = threading.Event(), [], server.pid
    world.write_model(folder / "again", seed=2)

    def work(path, body):
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as one:
            while not done.is_set():
                answer = one.post(path, json=body | {"model": "moving"})
                found.append((answer.status_code, answer.text))

    def load(name):
        path = {"path": str(folder / name)}
        answer = http.post("/v1/models/moving", json=path, timeout=600)
        assert answer.status_code == 200

    load("base")  # the judge's engine
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            pool.submit(work, "/v1/completions", again)
            pool.submit(work, "/v1/chat/completions", ask_json | {"max_tokens": 4})
        try:
            for name in ("trained", "base", "trained", "again", "base"):
                load(name)
                assert http.get("/stats").status_code == 200
        finally:
            done.set()
    assert http.delete("/v1/models/moving").status_code == 200
    assert [text for status, text in found if status != 200] == []
    assert len(found) > 20 and server.pid == pid and server.restarts == 0


def test_clients_that_go_away_cancel_their_requests(server, http):
    # Four slots and forty requests: most of them wait when their clients leave.
    body = {"model": "judge", "prompt": "abc", "max_tokens": 120, "ignore_eos": True}
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}"
    address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    sockets = [socket.create_connection(address) for _ in range(40)]
    for connection in sockets:
        connection.sendall(head.encode() + b"\r\n\r\n" + content)
    for connection in sockets:
        connection.close()
    ended = (
        'scope_requests_total{path="/v1/completions",status="499"}',
        "scope_in_flight 0",
        # The engine cancels at its next dispatch.
        'scope_engine_perf_running{model="judge"} 0.0',
    )
    deadline = time.monotonic() + 30
    while True:
        counts = http.get("/metrics").text
        if all(line in counts for line in ended):
            break
        assert time.monotonic() < deadline


def test_metrics_are_prometheus_text(http):
    http.get("/health")
    lines = http.get("/metrics").text.splitlines()
    assert any(line.startswith("scope_engine_") for line in lines)
    for line in lines:
        if line.startswith("#"):
            continue
        float(line.rsplit(" ", 1)[1])


def test_engines_count_what_they_did_and_what_they_saved(server):
    request = ask("x" * 100, tokens=8)

    async def play():
        async with world.Client(
            world.inference_config(), server.url, server.secrets
        ) as client:
            meter = Meter()
            meter.since(await client.engines(("judge", "solver")))
            done = [await client.complete(m, request) for m in ("judge", "solver")]
            return done, meter.since(await client.engines(("judge", "solver")))

    done, found = asyncio.run(play())
    # One engine has both names, and the second prompt's first chunk from the first.
    [((name, _), work)] = found.items()
    assert name == "judge"
    assert (work["prefill_tokens"], work["cached_tokens"]) == (136, 64)
    assert work["decode_tokens"] == sum(len(c.ids) for c in done)
    assert work["slot_steps"] == 4 * work["decode_tokens"]  # alone in four slots
    assert work["prefill_seconds"] > 0 and work["decode_seconds"] > 0


def start(settings: ServerSettings, file: Path) -> subprocess.Popen:
    settings_io.save(settings, file)
    return subprocess.Popen(
        [sys.executable, "-m", "scope_jax.inference.server", "--config-file", file],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_port_in_use_is_one_line_and_exit_code_2(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = world.inference_config(port=port)
        process = start(ServerSettings(inference=config), tmp_path / "settings.json")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.splitlines() == [
        f"error: port {port} on 127.0.0.1: in use: choose another, or 0 for a free one"
    ]


@pytest.fixture
def running(tmp_path):
    """A server's process and its port."""
    state = tmp_path / "state.json"
    settings = ServerSettings(inference=world.inference_config(), state_file=str(state))
    process = start(settings, tmp_path / "settings.json")
    deadline = time.monotonic() + 60
    while not state.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    while True:
        try:
            port = json.loads(state.read_text())["inference"]["port"]
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline
    yield process, port
    process.kill()
    process.communicate()


def begun(port):
    """A connection with a request of which the last byte is missing."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = "POST /retrieve HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
    connection.sendall(head.encode())
    time.sleep(0.2)
    return connection


def test_sigterm_ends_it_with_code_0(running):
    process, _ = running
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_sigterm_waits_for_answers_that_have_begun(running):
    process, port = running
    with begun(port) as connection:
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(6)  # it was cut off after 5
        connection.sendall(b"}")
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 ")
    assert process.wait(timeout=30) == 0


def test_a_second_signal_ends_it_at_once(running):
    process, port = running
    with begun(port):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=5) == 143
